"""One loaded version of a model, and what it answers: the one place where request, session and answer meet.

Rules of the room: values and arrays in, values and arrays out; the rules themselves live in ``feeds``,
``examples``, ``tensor_requests``, ``saved_model`` and ``answers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelserver import InvalidInput, TensorRequest, TensorResponse
from tfserver.answers import AnswerForm
from tfserver.batching import BatchRules
from tfserver.examples import (
    check_classifies,
    check_regresses,
    classifications,
    examples_from_request,
    regressions,
)
from tfserver.feeds import feeds_from_request
from tfserver.json_values import cut
from tfserver.row_independence import rows_are_independent
from tfserver.saved_model import SavedModel
from tfserver.signature import DEFAULT_SIGNATURE, Signature
from tfserver.tensor_requests import as_array, feeds_from_arrays, wanted_outputs


@dataclass(frozen=True, slots=True)
class Served:
    """One loaded version and what goes with it, so that a request sees all of one version."""

    saved_model: SavedModel
    default: Signature | None
    """``serving_default``, or the only signature that can be called."""
    forms: Mapping[str, AnswerForm]
    rules: BatchRules | None = None
    joins_rows: bool = False
    """Requests may share a run though nobody has asked for batching: see ``row_independence``."""

    @classmethod
    def of(cls, saved_model: SavedModel, rules: BatchRules | None = None) -> Served:
        """All that goes with this SavedModel. Calls it a few times, unless there are rules for batching."""
        signatures = saved_model.signatures
        with_inputs = [signature for signature in signatures.values() if signature.inputs]
        only = with_inputs[0] if len(with_inputs) == 1 else None
        return cls(
            saved_model,
            signatures.get(DEFAULT_SIGNATURE, only),
            {name: AnswerForm(signature) for name, signature in signatures.items()},
            rules,
            rules is None
            and rows_are_independent(saved_model.run, with_inputs, saved_model.has_side_effects),
        )

    def may_join(self, payload: Mapping[str, Any] | TensorRequest) -> bool:
        """Whether a request may share a run with others, whatever it came as: rows, or named arrays."""
        if self.rules is None:
            return self.joins_rows
        if isinstance(payload, TensorRequest):
            name = payload.signature_name
        else:
            name = payload.get("signature_name", "")
        return (name or (self.default.name if self.default else "")) in self.saved_model.batched

    def answer(self, payload: Any) -> dict[str, Any]:
        """Answer a V1 request: ``instances`` with ``predictions``, ``inputs`` with ``outputs``."""
        signature = self._requested(_object(payload))
        outputs = self.saved_model.run(signature, feeds_from_request(payload, signature))
        form = self.forms[signature.name]
        return form.rows(outputs) if "instances" in payload else form.columns(outputs)

    def classify(self, payload: Any, checks_method_name: bool = False) -> dict[str, Any]:
        """Answer examples with ``[label, score]`` pairs."""
        examples = examples_from_request(_object(payload), "classify")
        signature = self._requested(payload, _NO_SIGNATURE)
        wanted = check_classifies(signature, checks_method_name)
        values = self.saved_model.run(signature, [examples], wanted)
        return {"results": classifications(wanted, values, len(examples))}

    def regress(self, payload: Any, checks_method_name: bool = False) -> dict[str, Any]:
        """Answer examples with a number each."""
        examples = examples_from_request(_object(payload), "regress")
        signature = self._requested(payload, _NO_SIGNATURE)
        wanted = check_regresses(signature, checks_method_name)
        (value,) = self.saved_model.run(signature, [examples], wanted)
        return {"results": regressions(value, len(examples))}

    def run(self, request: TensorRequest) -> TensorResponse:
        """Answer named arrays with named arrays."""
        signature = self._requested({"signature_name": request.signature_name}, _NO_KEY)
        wanted = wanted_outputs(request.outputs, signature)
        values = self.saved_model.run(signature, feeds_from_arrays(request.inputs, signature), wanted)
        arrays = {name: as_array(value) for name, value in zip(wanted, values, strict=True)}
        return TensorResponse(arrays, signature.name)

    def _requested(self, payload: Mapping[str, Any], unknown: str = "") -> Signature:
        """The signature that a request names; ``unknown`` is what is said of one that is not there."""
        name = payload.get("signature_name", "")
        if not isinstance(name, str):
            raise InvalidInput("'signature_name' key must be a string value")
        signatures = self.saved_model.signatures
        signature = signatures.get(name) if name else self.default
        if signature is not None:
            return signature
        name = name or DEFAULT_SIGNATURE
        reason = self.saved_model.unusable.get(name)
        if reason is not None:
            raise InvalidInput(f'Serving signature name: "{name}" cannot be served: {reason}')
        known = f'(set "signature_name" to one of: {", ".join(signatures)})'
        if unknown:
            raise InvalidInput(f"{unknown.format(cut(name))} {known}")
        raise InvalidInput(f'Serving signature name: "{cut(name)}" not found in signature def {known}')


_NO_SIGNATURE = "No signature was found with the name: {}"
_NO_KEY = 'Serving signature key "{}" not found.'


def _object(payload: Any) -> Mapping[str, Any]:
    if not isinstance(payload, dict):
        raise InvalidInput('JSON Value: Is not object: send {"instances": [...]} as a JSON body')
    return payload

"""``TensorFlowModel``: a SavedModel behind the hooks of ``modelserver.Model``.

Rules of the room: joins request, session and answer; the rules themselves live in ``feeds``, ``saved_model``
and ``answers``. Written on the library's public names only, as any user's predictor would be.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from modelserver import InvalidInput, Model, ModelNotReady
from tfserver.answers import AnswerForm
from tfserver.feeds import feeds_from_request
from tfserver.layout import find_saved_model
from tfserver.saved_model import SavedModel
from tfserver.signature import DEFAULT_SIGNATURE, Family, Signature, TensorSpec

_LARGEST_EXAMPLE = 200_000
"""Values; one 224x224x3 image has 150,528."""
_MAX_BATCH_SIZE = 256
"""Rows in one call for several requests."""
_log = logging.getLogger("modelserver.model")


class TensorFlowModel(Model):
    """Serves one SavedModel by TensorFlow Serving's REST rules.

    A request names a signature (``signature_name``, default ``serving_default``) and gives its inputs as rows
    or columns:

        {"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}      one input, its rows
        {"instances": [{"age": 5, "name": "a"}, {"age": 6, "name": "b"}]}  several inputs, by name
        {"inputs": {"age": [5, 6], "name": ["a", "b"]}}                  the same as columns

    Args:
        name: the model's name.
        model_dir: holds version folders (``0001/saved_model.pb``; the highest number is served) or a
            ``saved_model.pb``.
        tags: the graph of the SavedModel to serve.
    """

    platform = "tensorflow_savedmodel"
    never_waits = True

    def __init__(self, name: str, model_dir: Path | str, tags: Sequence[str] = ("serve",)) -> None:
        super().__init__(name)
        self.model_dir = Path(model_dir)
        self.tags = tuple(tags)
        self.version: int | None = None
        self._served: _Served | None = None
        self._answers_example = False

    def load(self) -> bool:
        """Load the newest version, and run it once on made-up rows so that the first request is not slow.

        Raises:
            ModelLoadError: what was found, what was wanted and the command that fixes it.
        """
        folder, version = find_saved_model(self.model_dir)
        served, previous = _Served.of(SavedModel(folder, self.tags)), self._served
        for name, reason in served.saved_model.unusable.items():
            _log.warning("model %s: signature %r cannot be served: %s", self.name, name, reason)
        answers_example = self._warm_up(served)
        self._served, self.version, self._answers_example = served, version, answers_example
        self.max_batch_size = _MAX_BATCH_SIZE if _rows_are_independent(served.saved_model) else 0
        self.ready = True
        if previous is not None:
            previous.saved_model.close()
        return True

    def stop(self) -> None:
        """Close the session and give its memory back."""
        self.ready = False
        served, self._served = self._served, None
        if served is not None:
            served.saved_model.close()

    def validate(self, payload: Any) -> Any:
        """Pass everything on: ``predict`` checks in TensorFlow Serving's order."""
        return payload

    def predict(self, payload: Any) -> dict[str, Any]:
        """Answer a request.

        Returns:
            ``{"predictions": ...}`` for ``instances``, ``{"outputs": ...}`` for ``inputs``; numbers as
            ``ndarray``.

        Raises:
            InvalidInput: the request does not fit the signature, or the graph refused its values.
        """
        served = self._served
        if served is None:
            raise ModelNotReady(self.name)
        return served.answer(payload)

    def get_input_types(self) -> Sequence[Mapping[str, Any]]:
        """The inputs of the default signature; none when there is none."""
        default = self._served and self._served.default
        return _types(default.inputs) if default else []

    def get_output_types(self) -> Sequence[Mapping[str, Any]]:
        """The outputs of the default signature."""
        default = self._served and self._served.default
        return _types(default.outputs) if default else []

    def example_request(self) -> dict[str, Any] | None:
        """Rows of zeros and empty strings, if the loaded model was seen to answer it."""
        default = self._served and self._served.default
        return _example(default) if default and self._answers_example else None

    def _warm_up(self, served: _Served) -> bool:
        """Whether the default signature answers the example. A call with side effects is not made up."""
        example = _example(served.default) if served.default else None
        if served.default is None or example is None:
            return False
        if served.saved_model.has_side_effects(served.default):
            return False
        try:
            served.answer(example)
        except Exception as error:  # whatever a graph does with made-up values, the model is loaded
            _log.info("model %s does not answer a row of zeros: %s", self.name, error)
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Served:
    """One loaded version and what goes with it, so that a request sees all of one version."""

    saved_model: SavedModel
    default: Signature | None
    """``serving_default``, or the only signature that can be called."""
    forms: Mapping[str, AnswerForm]

    @classmethod
    def of(cls, saved_model: SavedModel) -> _Served:
        signatures = saved_model.signatures
        with_inputs = [signature for signature in signatures.values() if signature.inputs]
        only = with_inputs[0] if len(with_inputs) == 1 else None
        return cls(
            saved_model,
            signatures.get(DEFAULT_SIGNATURE, only),
            {name: AnswerForm(signature) for name, signature in signatures.items()},
        )

    def answer(self, payload: Any) -> dict[str, Any]:
        if not isinstance(payload, dict):
            raise InvalidInput('JSON Value: Is not object: send {"instances": [...]} as a JSON body')
        signature = self._requested(payload.get("signature_name", ""))
        outputs = self.saved_model.run(signature, feeds_from_request(payload, signature))
        form = self.forms[signature.name]
        return form.rows(outputs) if "instances" in payload else form.columns(outputs)

    def _requested(self, name: Any) -> Signature:
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
        raise InvalidInput(
            f'Serving signature name: "{name[:256]}" not found in signature def '
            f'(set "signature_name" to one of: {", ".join(signatures)})'
        )


def _rows_are_independent(loaded: SavedModel) -> bool:
    """Whether every signature leaves the first size of all its tensors open: rows may come and go.

    A call with side effects is one call for one request, and so is left alone.
    """
    callable_ones = [signature for signature in loaded.signatures.values() if signature.inputs]
    return all(
        spec.shape is not None and spec.shape[:1] == (-1,)
        for signature in callable_ones
        for spec in (*signature.inputs, *signature.outputs)
    ) and not any(loaded.has_side_effects(signature) for signature in callable_ones)


def _types(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "datatype": spec.dtype.datatype,
            "shape": [-1] if spec.shape is None else list(spec.shape),
        }
        for spec in specs
    ]


_BLANK = {Family.FLOAT: 0.0, Family.INTEGER: 0, Family.BOOL: False, Family.STRING: ""}


def _example(signature: Signature) -> dict[str, Any] | None:
    """Rows shaped by the signature, unknown sizes 1; ``None`` if JSON cannot carry them or they are many."""
    shapes = [_known_sizes(spec) for spec in signature.inputs]
    if any(spec.dtype.family is Family.NONE for spec in signature.inputs) or not shapes:
        return None
    rows = max(shape[0] for shape in shapes)
    if rows * sum(prod(shape[1:]) for shape in shapes) > _LARGEST_EXAMPLE:
        return None
    row = {
        spec.name: np.full(shape[1:], _BLANK[spec.dtype.family], dtype=object).tolist()
        for spec, shape in zip(signature.inputs, shapes, strict=True)
    }
    return {"instances": [row if len(row) > 1 else next(iter(row.values()))] * rows}


def _known_sizes(spec: TensorSpec) -> list[int]:
    """The shape with 1 for every unknown size; one row for an input of unknown rank or none."""
    return [1 if size == -1 else size for size in spec.shape or (1,)]

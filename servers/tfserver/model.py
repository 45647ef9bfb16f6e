"""``TensorFlowModel``: a SavedModel behind the hooks of ``modelserver.Model``.

Rules of the room: loads, warms up and stops; what a loaded version answers is ``served``'s. Written on the
library's public names only, as any user's predictor would be.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np

from modelserver import (
    LoggedCall,
    Model,
    ModelLoadError,
    ModelNotReady,
    ModelType,
    TensorRequest,
    TensorResponse,
    warm_up,
)
from tfserver import cpu_threads
from tfserver.batching import rules_for
from tfserver.layout import find_saved_model
from tfserver.options import Options, SessionOptions
from tfserver.saved_model import SavedModel, graphs, records
from tfserver.served import Served
from tfserver.signature import DEFAULT_SIGNATURE, Family, Signature, TensorSpec
from tfserver.warm_up_records import replay

_LARGEST_EXAMPLE = 200_000
"""Values; one 224x224x3 image has 150,528."""
_MAX_BATCH_SIZE = 256
"""Rows in one call for several requests."""
_WARM_UP_ROWS = (2, 3, 8, 64, _MAX_BATCH_SIZE)
_WARM_UP_S = 1.0
_POOL = cpu_threads.Pool()
"""TensorFlow's threads, which belong to the process: hence no attribute of a model."""
_MODELS: WeakSet[TensorFlowModel] = WeakSet()
"""All of this process: the pool is sized for those that are yet to be loaded too."""
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
        options: how; default: as if the command line said nothing.
    """

    platform = "tensorflow_savedmodel"
    never_waits = True
    json_rules = "tensorflow_serving"
    takes_tensors = True

    # instances_dtype is for reading large bodies only: predict checks, in TensorFlow Serving's order. A hook
    # that is the default of preprocess is not called at all.
    validate = Model.preprocess

    def __init__(
        self,
        name: str,
        model_dir: Path | str,
        tags: Sequence[str] = ("serve",),
        options: Options | None = None,
    ) -> None:
        super().__init__(name)
        self.model_dir = Path(model_dir)
        self.tags = tuple(tags)
        self.options = options or Options()
        self.version: int | None = None
        self._served: Served | None = None
        self._answers_example = False
        self._request: dict[str, Any] | None = None
        _MODELS.add(self)

    def load(self) -> bool:
        """Load the newest version, and run it so that the first requests are not slow.

        On made-up rows, on the requests of ``warmup.json`` beside the graph, or in the model's folder, and on
        those of ``assets.extra/tf_serving_warmup_requests``.

        Raises:
            ModelLoadError: what was found, what was wanted and the command that fixes it.
        """
        folder, version = find_saved_model(self.model_dir)
        rules = rules_for(folder, self.options.batching, is_per_model=self.options.per_model_batching)
        saved_model = SavedModel(folder, self.tags, self._session_options(folder), rules)
        served, previous = Served.of(saved_model, rules), self._served
        for name, reason in served.saved_model.unusable.items():
            _log.warning("model %s: signature %r cannot be served: %s", self.name, name, reason)
        if served.default is None:
            _log.info(
                'model %s has no signature "%s": a request names one in "signature_name": %s',
                self.name,
                DEFAULT_SIGNATURE,
                ", ".join(served.saved_model.signatures),
            )
        try:
            started = time.perf_counter()
            answers_example = self._warm_up(served)
            requests = warm_up(folder, served.answer)
            replay(folder, records, partial(self._replay, served), self.options.warm_up_iterations)
            self.warm_up_s = time.perf_counter() - started
        except BaseException:
            served.saved_model.close()
            raise
        self._served, self._answers_example = served, answers_example
        if version is not None:  # else whoever gave us the folder of one version knows it
            self.version = version
        self._request = next(iter(requests), None)
        self.instances_dtype = _instances_dtype(served.saved_model)
        self._set_batching(served)
        self.never_waits = not saved_model.takes_any_time
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

    def predict(self, payload: Any) -> dict[str, Any] | TensorResponse:
        """Answer a request.

        Returns:
            ``{"predictions": ...}`` for ``instances``, ``{"outputs": ...}`` for ``inputs``; numbers as
            ``ndarray``. A ``TensorResponse`` for a ``TensorRequest``.

        Raises:
            InvalidInput: the request does not fit the signature, or the graph refused its values.
        """
        served = self._loaded()
        return served.run(payload) if isinstance(payload, TensorRequest) else served.answer(payload)

    def classify(self, payload: Any) -> dict[str, Any]:
        """Answer a request of ``{"examples": [...]}`` with ``{"results": [[[label, score], ...], ...]}``.

        Raises:
            InvalidInput: the examples are wrong, the signature does not classify, or the graph refused them.
        """
        return self._loaded().classify(payload, self.options.checks_method_names)

    def regress(self, payload: Any) -> dict[str, Any]:
        """Answer a request of ``{"examples": [...]}`` with ``{"results": [value, ...]}``.

        Raises:
            InvalidInput: the examples are wrong, the signature has no regression, or the graph refused them.
        """
        return self._loaded().regress(payload, self.options.checks_method_names)

    def signature_definitions(self) -> Mapping[str, Any]:
        """All signatures as the SavedModel has them; none before it is loaded."""
        return self._served.saved_model.definitions if self._served else {}

    def _loaded(self) -> Served:
        served = self._served
        if served is None:
            raise ModelNotReady(self.name)
        return served

    def get_input_types(self) -> Sequence[Mapping[str, Any]]:
        """The inputs of the default signature; none when there is none.

        One for which the signature has a default is ``optional``.
        """
        default = self._served and self._served.default
        if not default:
            return []
        types = _types(default.inputs)
        return [each | {"optional": True} if each["name"] in default.defaults else each for each in types]

    def get_output_types(self) -> Sequence[Mapping[str, Any]]:
        """The outputs of the default signature."""
        default = self._served and self._served.default
        return _types(default.outputs) if default else []

    def example_request(self) -> dict[str, Any] | None:
        """Rows of zeros and empty strings, if the loaded model was seen to answer it.

        Else the first request of ``warmup.json``.
        """
        default = self._served and self._served.default
        return _example(default) if default and self._answers_example else self._request

    def _replay(self, served: Served, call: LoggedCall) -> None:
        """Answer a call of the warm-up records."""
        if call.model_type is ModelType.CLASSIFIER:
            served.classify(call.payload, self.options.checks_method_names)
        elif call.model_type is ModelType.REGRESSOR:
            served.regress(call.payload, self.options.checks_method_names)
        else:
            served.run(call.payload)

    def _session_options(self, folder: Path) -> SessionOptions:
        """The command line's, with the threads for operators that it leaves to us."""
        told = self.options.session
        if told.intra_op_threads:
            return told
        threads = _POOL.threads(_folders_in_process(), graphs)
        if _POOL.is_too_small(folder, graphs):
            _log.warning(
                "model %s: TensorFlow has one thread for operators, since all models that were loaded before "
                "are short. Make this one before the first is loaded, or serve it from a process of its own",
                self.name,
            )
        return replace(told, intra_op_threads=threads)

    def _set_batching(self, served: Served) -> None:
        """Say which requests may share a call: see ``batching``."""
        saved_model, rules = served.saved_model, served.rules
        self.max_latency_ms, self.may_join = 0, served.may_join
        if rules is None:
            self.max_batch_size = _MAX_BATCH_SIZE if served.joins_rows else 0
            return
        self.max_batch_size = rules.most_rows if saved_model.batched else 0
        self.max_latency_ms = rules.max_latency_ms
        alone = sorted(saved_model.signatures.keys() - saved_model.batched)
        if alone:
            _log.info(
                "model %s: signatures that are not batched, since they change something or one of their "
                "tensors has no open first size: %s",
                self.name,
                ", ".join(alone),
            )
        if rules.parameters.pad_variable_length_inputs:
            _log.info(
                "model %s: pad_variable_length_inputs has nothing to do: requests of different inner shapes "
                "share no batch here",
                self.name,
            )

    def _warm_up(self, served: Served) -> bool:
        """Whether the default signature answers the example. A call with side effects is not made up.

        With several numbers of rows: oneDNN compiles kernels for each kind of shape, which took 25 to 70 ms
        at the first two rows, and 5 ms at 64, after one row had been answered.
        """
        example = _example(served.default) if served.default else None
        if served.default is None or example is None:
            return False
        if served.saved_model.has_side_effects(served.default):
            return False
        until = time.monotonic() + _WARM_UP_S
        try:
            for _ in range(2):
                served.answer(example)
        except Exception as error:  # whatever a graph does with made-up values, the model is loaded
            _log.info("model %s does not answer a row of zeros: %s", self.name, error)
            return False
        rows = example["instances"]
        if len(rows) == 1:
            for count in _row_counts(served):
                if count * _values(served.default) > _LARGEST_EXAMPLE or time.monotonic() > until:
                    break
                with suppress(Exception):  # it is no condition for serving
                    served.answer({"instances": rows * count})
        return True


def _folders_in_process() -> Iterator[Path]:
    """The SavedModels of all models that were made here. One that is not found says so when it is loaded."""
    for model in list(_MODELS):
        with suppress(ModelLoadError):
            yield find_saved_model(model.model_dir)[0]


def _row_counts(served: Served) -> Sequence[int]:
    """Numbers of rows, besides one, that calls of the default signature may come to have."""
    if served.rules is None:
        return _WARM_UP_ROWS if served.joins_rows else ()
    if served.default is None or served.default.name not in served.saved_model.batched:
        return ()
    return served.rules.sizes or [count for count in _WARM_UP_ROWS if count <= served.rules.most_rows]


def _instances_dtype(loaded: SavedModel) -> np.dtype | None:
    """What rows of numbers can be read as before it is known which signature a request names.

    ``None`` where that would make a difference: signatures of different dtypes, or of several inputs.
    """
    inputs = [signature.inputs for signature in loaded.signatures.values() if signature.inputs]
    dtypes = {specs[0].dtype for specs in inputs}
    if len(dtypes) != 1 or any(len(specs) > 1 for specs in inputs):
        return None
    dtype = dtypes.pop()
    return dtype.numpy if dtype.family in (Family.FLOAT, Family.INTEGER) else None


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
    if rows * _values(signature) > _LARGEST_EXAMPLE:
        return None
    row = {
        spec.name: np.full(shape[1:], _BLANK[spec.dtype.family], dtype=object).tolist()
        for spec, shape in zip(signature.inputs, shapes, strict=True)
    }
    return {"instances": [row if len(row) > 1 else next(iter(row.values()))] * rows}


def _values(signature: Signature) -> int:
    """Values in one row of the example."""
    return sum(prod(_known_sizes(spec)[1:]) for spec in signature.inputs)


def _known_sizes(spec: TensorSpec) -> list[int]:
    """The shape with 1 for every unknown size; one row for an input of unknown rank or none."""
    return [1 if size == -1 else size for size in spec.shape or (1,)]

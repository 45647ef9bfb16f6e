"""``PyTorchModel``: a model folder behind a name, by joining the rooms of this package.

``predict`` is the whole request path: instances -> tensors -> ``forward`` -> predictions. What can be known
before a request comes (the class, the dtype of every input, the shapes) is worked out in ``load``.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from modelserver import InferenceError, InvalidInput, Model, ModelLoadError, ModelNotReady, warm_up
from pytorchserver import cpu_threads
from pytorchserver.compiled import compiled
from pytorchserver.frozen import frozen
from pytorchserver.instances import Batch, Reader, Rule, declared_rules, rules_from
from pytorchserver.loading import choose_device, is_certainly_cpu, load_network
from pytorchserver.network import ANY, Network, TensorInfo
from pytorchserver.outputs import predictions
from pytorchserver.probing import Known, probe
from pytorchserver.refusals import FORWARD_ERRORS, is_about_dtype, misfit, refusal

_BATCH_SIZE = 256
_MOST_WARM_UP_VALUES = 200_000
_log = logging.getLogger("modelserver.model")

_DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "FP32",  # JSON and numpy know no bfloat16: it is read and answered as float32
    torch.float32: "FP32",
    torch.float64: "FP64",
}


@dataclass(frozen=True)
class _Loaded:
    network: Network
    reader: Reader
    known: Known
    threads: int

    def forward(self, batch: Batch) -> Any:
        cpu_threads.use(self.threads)
        return self.forward_as_is(batch)

    def forward_as_is(self, batch: Batch) -> Any:
        """On however many threads are set."""
        with torch.inference_mode():
            return self.network.call(*batch.args, **batch.kwargs)


class PyTorchModel(Model):
    """Serves a folder with ``model.py`` and weights, or one TorchScript or ``torch.export`` program.

    A request is ``{"instances": [row, ...]}`` with rows of numbers, or objects whose keys are the arguments
    of ``forward``. The class in ``model.py`` may have an attribute ``input_dtype`` (a dtype or its name, or a
    dict of these by argument) for a network whose dtypes cannot be found out: ``input_dtype = "uint8"``.

    Args:
        name: the name in the URL.
        model_dir: the unpacked folder.
        model_class_name: the class in ``model.py``. Default: found, see ``model_class.find_class``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``. Default: CUDA if there is one.
        max_batch_size: most rows of several requests in one call; 0 keeps requests apart. Default: 256 if the
            class in ``model.py`` says ``batchable = True``, that is, if each row's prediction depends on that
            row alone; else 0.
        compile: compile the network at load (CPU only; see ``compiled``).
    """

    platform = "pytorch"
    never_waits = True

    # instances_dtype is for reading large bodies only; what the rows may be is decided in predict, which also
    # takes objects. A hook that is the default of preprocess is not called at all.
    validate = Model.preprocess

    def __init__(
        self,
        name: str,
        model_dir: str | Path,
        model_class_name: str | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__(name)
        self._compile = compile
        self._max_batch_size = max_batch_size
        self.model_dir = Path(model_dir)
        self.model_class_name = model_class_name
        self.device = device
        self._loaded: _Loaded | None = None
        self._example: dict[str, Any] | None = None

    @property
    def loads_before_fork(self) -> bool:
        """Whether several workers can inherit the loaded model and share its memory: not with CUDA."""
        return is_certainly_cpu(self.device)

    def load(self) -> bool:
        """Load code and weights, and try them.

        Raises:
            ModelLoadError: says what was found, what was expected, and what to do.
        """
        self.stop()
        device = choose_device(self.device)
        if self._compile and device.type != "cpu":
            raise ModelLoadError(f"--compile is for the CPU, not {device}. Leave it out, or add --device cpu")
        try:
            network = load_network(self.model_dir, self.model_class_name, device)
        except PermissionError as error:
            file = Path(error.filename or self.model_dir).name
            raise ModelLoadError(
                f"{file} cannot be read: {error.strerror}. The user of the process needs the right to."
            ) from error
        try:
            self._loaded = _prepare(network, device)
        except BaseException:
            network.close()
            raise
        self.instances_dtype = self._loaded.reader.instances_dtype()
        self.max_batch_size = self._wanted_batch_size(network)
        self._example = self._working_example(self._loaded.known.example)
        started = time.perf_counter()
        self._warm_up(device)
        self.warm_up_s = time.perf_counter() - started
        self.ready = True
        _log.info("%s: %s on %s", self.name, network.description, device)
        return True

    def _warm_up(self, device: torch.device) -> None:
        """Make the network fast, and let it answer the requests that lie beside it."""
        try:
            requests = warm_up(self.model_dir, self.predict)
            self._example = self._example or next(iter(requests), None)
            if self._loaded is None:
                return
            if self._example is None:
                if self._compile:
                    raise ModelLoadError(
                        "--compile needs a row that the network answers, and none could be made up. Put a "
                        "request into warmup.json beside the model, or leave --compile out"
                    )
                return
            before = self._loaded.network
            if self._compile:
                first = next(iter(requests), self._example)  # it has the sizes that users send
                self._loaded = _compiled(self._loaded, first["instances"], self.max_batch_size)
            else:
                self._loaded = _made_fast(self._loaded, self._example["instances"], device)
            if self._loaded.network is not before:
                warm_up(self.model_dir, self.predict)
            self._warm_up_rows(self._example["instances"])
        except BaseException:
            self.stop()
            raise

    def _warm_up_rows(self, rows: list[Any]) -> None:
        """Let a network that gets batches see them: oneDNN compiles for each number of rows."""
        if len(rows) == 1 and self.max_batch_size > 1 and self._loaded is not None:
            values = sum(math.prod(info.shape) for info in self._loaded.known.example.values())
            for count in (2, self.max_batch_size):
                if count * values <= _MOST_WARM_UP_VALUES:
                    with contextlib.suppress(Exception):  # it is no condition for serving
                        self.predict({"instances": rows * count})

    def stop(self) -> None:
        """Drop the network and forget the modules of ``model.py``."""
        self.ready = False
        loaded, self._loaded, self._example = self._loaded, None, None
        if loaded is not None:
            loaded.network.close()

    def predict(self, payload: Any) -> dict[str, Any]:
        """Answer ``{"instances": [...]}`` with ``{"predictions": ...}``, one per instance, in order.

        Raises:
            InvalidInput: the instances are not what the network takes.
            InferenceError: the network did not give one prediction per row.
        """
        loaded = self._loaded
        if loaded is None:
            raise ModelNotReady(self.name)
        instances = _instances(payload)
        if len(instances) == 0:  # refused as TensorFlow Serving refuses it
            raise InvalidInput('No values in "instances": expected one row at least')
        batch = loaded.reader.read(instances)
        _check(loaded, batch)
        try:
            output = loaded.forward(batch)
        except FORWARD_ERRORS as error:
            output = _try_again(loaded, batch, instances, error)
        try:
            return {"predictions": predictions(output, batch.rows)}
        except InferenceError as error:
            odd = misfit(batch.named(loaded.network.arguments), loaded.known.inputs)
            if odd:
                raise InvalidInput(odd) from error
            raise

    def get_input_types(self) -> list[dict[str, Any]]:
        """The arguments of ``forward``, where they are stated by the file or were found out."""
        return _types(self._loaded.known.inputs if self._loaded else {})

    def get_output_types(self) -> list[dict[str, Any]]:
        """The tensors that ``forward`` returns, where known."""
        return _types(self._loaded.known.outputs if self._loaded else {})

    def example_request(self) -> dict[str, Any] | None:
        """A body that the loaded model has answered: one row of zeros, or the first of ``warmup.json``."""
        return self._example

    def _wanted_batch_size(self, network: Network) -> int:
        if self._max_batch_size is not None:
            return self._max_batch_size
        return _BATCH_SIZE if getattr(type(network.module), "batchable", False) else 0

    def _working_example(self, inputs: Mapping[str, TensorInfo]) -> dict[str, Any] | None:
        if not inputs:
            return None
        columns = {name: torch.zeros(info.shape, dtype=info.dtype).tolist() for name, info in inputs.items()}
        rows: list[Any] = next(iter(columns.values()))
        if len(columns) > 1:
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        try:
            self.predict({"instances": rows})
        except (Exception, SystemExit):  # what does not work is no example
            return None
        return {"instances": rows}


def _prepare(network: Network, device: torch.device) -> _Loaded:
    """Find out what the network takes, and settle how requests are read."""
    floating = _floating_dtype(network.module)
    declared = declared_rules(getattr(type(network.module), "input_dtype", None), network.arguments)
    dtypes = {name: rule.dtype for name, rule in declared.items()}
    known = probe(network, floating, device, dtypes)
    rules = {**rules_from(known.inputs), **declared}
    guess = Rule(floating, certain=False, keep_integers=_has_embedding(network.module))
    reader = Reader(network.arguments, rules, guess, device)
    return _Loaded(network, reader, known, cpu_threads.most())


def _made_fast(loaded: _Loaded, instances: Any, device: torch.device) -> _Loaded:
    """Settle how many threads a forward uses, and freeze the network if it is short, by trying it."""
    if device.type != "cpu":
        return loaded
    batch = loaded.reader.read(instances)
    seconds = cpu_threads.fastest(lambda: loaded.forward_as_is(batch))
    threads = cpu_threads.settle_for(seconds)
    network = loaded.network
    # Not by the threads: one may be all that there is. To freeze 240 MiB of weights took 1.6 s.
    if seconds < cpu_threads.SHORT_S:
        network = frozen(network, batch.named(network.arguments), loaded.known.index_limit)
    return replace(loaded, threads=threads, network=network)


def _compiled(loaded: _Loaded, instances: Any, max_batch_size: int) -> _Loaded:
    """Settle how many threads a forward uses, and compile the network for them."""
    batch = loaded.reader.read(instances)
    threads = cpu_threads.settle(lambda: loaded.forward_as_is(batch))
    cpu_threads.use(threads)
    network = loaded.network
    named = batch.named(network.arguments)
    return replace(
        loaded,
        threads=threads,
        network=compiled(network, named, max_batch_size, loaded.known.index_limit),
    )


def _instances(payload: Any) -> Any:
    if not isinstance(payload, dict):
        got = f"{len(payload)} bytes" if isinstance(payload, bytes) else type(payload).__name__
        raise InvalidInput(f'Expected a JSON body {{"instances": [...]}}, got {got}')
    if "instances" not in payload:
        keys = ", ".join(f'"{str(key)[:40]}"' for key in list(payload)[:5])
        raise InvalidInput(f'"instances" is missing; the body has {keys or "no keys"}')
    instances = payload["instances"]
    if not hasattr(instances, "__len__") or isinstance(instances, (str, bytes, dict)):
        raise InvalidInput('Expected "instances" to be a list')
    return instances


def _check(loaded: _Loaded, batch: Batch) -> None:
    """Refuse what the network would take for something else, or break on."""
    known = loaded.known
    if (
        known.stated
        or (batch.args and batch.args[0].ndim < known.least_dims)
        or _would_broadcast(batch, known)
    ):
        odd = misfit(batch.named(loaded.network.arguments), known.inputs)
        if odd:
            rows = next(iter(known.inputs.values())).shape[:1]
            fixed = (
                ""
                if rows == (ANY,)
                else (
                    ". The program was exported for this number of rows only: export it with dynamic_shapes"
                )
            )
            raise InvalidInput(odd + fixed)
    if known.index_limit and batch.args and batch.args[0].numel():
        # On CUDA an index out of range ends the process's use of the device, not just the request.
        low, high = (int(value) for value in batch.args[0].aminmax())
        if low < 0 or high >= known.index_limit:
            wrong = low if low < 0 else high
            raise InvalidInput(f'"instances" hold the index {wrong}, expected 0 to {known.index_limit - 1}')


def _would_broadcast(batch: Batch, known: Known) -> bool:
    """Whether a size of 1 stands where the network takes more: torch would repeat the value and answer."""
    if not batch.args or not known.inputs:
        return False
    info = next(iter(known.inputs.values()))
    shape = batch.args[0].shape
    if shape[1:] == info.shape[1:]:
        return False
    return len(shape) == len(info.shape) and any(
        got == 1 < want for got, want in zip(shape[1:], info.shape[1:], strict=True)
    )


def _try_again(loaded: _Loaded, batch: Batch, instances: Any, error: Exception) -> Any:
    """Read integers the other way, if that is what ``forward`` minds; else say whose error it is."""
    if is_about_dtype(error):
        for rules in loaded.reader.other_rules(batch):
            with contextlib.suppress(*FORWARD_ERRORS, InvalidInput):
                output = loaded.forward(loaded.reader.read(instances, rules))
                loaded.reader.rules.update(rules)
                return output
    refused = refusal(error, batch.named(loaded.network.arguments), loaded.known.inputs)
    if refused is None:
        raise error
    raise refused from error


def _types(infos: Mapping[str, TensorInfo]) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": _DATATYPES[info.dtype], "shape": list(info.shape)}
        for name, info in infos.items()
        if info.dtype in _DATATYPES
    ]


def _floating_dtype(module: torch.nn.Module | None) -> torch.dtype:
    """The dtype of the network's parameters; float32 if it has none."""
    tensors = [*module.parameters(), *module.buffers()] if module is not None else []
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)


def _has_embedding(module: torch.nn.Module | None) -> bool:
    kinds = {"Embedding", "EmbeddingBag"}
    layers = module.modules() if module is not None else ()
    return any({type(layer).__name__, getattr(layer, "original_name", "")} & kinds for layer in layers)

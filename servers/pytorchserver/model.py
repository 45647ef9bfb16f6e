"""``PyTorchModel``: a model folder behind a name, by joining the rooms of this package.

What can be known before a request comes (the class, the dtype of every input, the shapes) is worked out in
``load``; what a loaded network answers is ``served``'s.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from modelserver import Model, ModelLoadError, ModelNotReady, TensorRequest, TensorResponse, warm_up
from pytorchserver import cpu_threads
from pytorchserver.compiled import compiled
from pytorchserver.frozen import frozen
from pytorchserver.learning import Learned
from pytorchserver.loading import choose_device, is_certainly_cpu, load_network
from pytorchserver.network import Network, TensorInfo
from pytorchserver.served import Served

_BATCH_SIZE = 256
_MOST_WARM_UP_VALUES = 200_000
_log = logging.getLogger("modelserver.model")


class PyTorchModel(Model):
    """Serves a folder with ``model.py`` and weights, or one TorchScript or ``torch.export`` program.

    A request is ``{"instances": [row, ...]}`` with rows of numbers, or objects whose keys are the arguments
    of ``forward``; or named arrays (``TensorRequest``), one for each argument. The class in ``model.py`` may
    say what cannot be found out: ``input_dtype`` (a dtype or its name, or a dict of these by argument), and
    ``inputs`` and ``outputs`` (lists of ``{"name", "datatype", "shape"}``; see ``declared``).

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
    takes_tensors = True

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
        self._loaded: Served | None = None
        self._learned = Learned()
        self._inputs: list[dict[str, Any]] = []
        self._outputs: list[dict[str, Any]] = []
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
            self._loaded = served = Served.of(network, device)
        except BaseException:
            network.close()
            raise
        self._learned = Learned(served.output_names)
        self.max_batch_size = self._wanted_batch_size(network)
        # Each row's prediction depends on that row alone, however the rows come.
        self.may_join = _any_request if self.max_batch_size > 1 else None
        self._example = self._working_example(served.known.example)
        started = time.perf_counter()
        self._warm_up(device)
        self.warm_up_s = time.perf_counter() - started
        self._inputs, self._outputs = self._input_types(served), self._output_types(served)
        is_tuple = served.known.is_tuple or self._learned.is_tuple
        # V2 makes one output of V1's predictions: rows that are lists of one tensor would become part of it.
        is_one_of_a_tuple = is_tuple and len(self._outputs) == 1
        self.instances_dtype = None if is_one_of_a_tuple else served.reader.instances_dtype()
        self.ready = True
        _log.info("%s: %s on %s", self.name, network.description, device)
        return True

    def _warm_up(self, device: torch.device) -> None:
        """Make the network fast, and let it answer the requests that lie beside it."""
        try:
            if self._loaded is None:
                return
            knows_all = self._loaded.known.inputs and self._loaded.known.outputs
            requests = warm_up(self.model_dir, self.predict if knows_all else self._learn)
            self._learned.try_other_sizes(self._loaded.network, self._loaded.known.inputs)
            self._example = self._example or next(iter(requests), None)
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

    def _learn(self, payload: Any) -> None:
        """Answer a V1 request, and note what it was and what came."""
        assert self._loaded is not None
        self._loaded.answer(payload, self._learned.note)

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
        self._learned, self._inputs, self._outputs = Learned(), [], []
        if loaded is not None:
            loaded.network.close()

    def predict(self, payload: Any) -> dict[str, Any] | TensorResponse:
        """Answer ``{"instances": [...]}`` with ``{"predictions": ...}``, one per instance, in order.

        Returns:
            A ``TensorResponse`` for a ``TensorRequest``, with arrays in the dtypes of the network's outputs;
            bfloat16 as float32.

        Raises:
            InvalidInput: the instances are not what the network takes.
            InferenceError: the network did not give one prediction per row, or no tensors.
        """
        loaded = self._loaded
        if loaded is None:
            raise ModelNotReady(self.name)
        if isinstance(payload, TensorRequest):
            return loaded.run(payload, self.name)
        return loaded.answer(payload)

    def get_input_types(self) -> list[dict[str, Any]]:
        """The arguments of ``forward``, where they are stated by the file or its author or were found out."""
        return self._inputs

    def get_output_types(self) -> list[dict[str, Any]]:
        """The tensors that ``forward`` returns, where known."""
        return self._outputs

    def example_request(self) -> dict[str, Any] | None:
        """A body that the loaded model has answered: one row of zeros, or the first of ``warmup.json``."""
        return self._example

    def _input_types(self, served: Served) -> list[dict[str, Any]]:
        takes = served.network.arguments
        may_be_left_out = set(takes.names) - set(takes.required)
        return [
            {**each, "optional": True} if each["name"] in may_be_left_out else each
            for each in _types(served.known.inputs or self._learned.inputs)
        ]

    def _output_types(self, served: Served) -> list[dict[str, Any]]:
        return _types(served.known.outputs or self._learned.outputs)

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


def _any_request(payload: Any) -> bool:
    """``may_join`` of a network that answers each row on its own."""
    return True


def _made_fast(loaded: Served, instances: Any, device: torch.device) -> Served:
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


def _compiled(loaded: Served, instances: Any, max_batch_size: int) -> Served:
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


def _types(infos: Mapping[str, TensorInfo]) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": info.datatype, "shape": list(info.shape)}
        for name, info in infos.items()
        if info.datatype
    ]

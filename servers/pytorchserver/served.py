"""One loaded network and what it answers: the one place where request, ``forward`` and answer meet.

Rules of the room: values and arrays in, values and arrays out; the rules themselves live in ``instances``,
``tensor_requests``, ``outputs`` and ``refusals``. Loading and warming up are ``model``'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from modelserver import InferenceError, InvalidInput, TensorRequest, TensorResponse
from pytorchserver import cpu_threads
from pytorchserver.declared import check_outputs, declared
from pytorchserver.instances import Batch, Reader, Rule, rules_from
from pytorchserver.network import ANY, Network
from pytorchserver.outputs import named_arrays, predictions
from pytorchserver.probing import Known, probe
from pytorchserver.refusals import FORWARD_ERRORS, is_about_dtype, misfit, refusal
from pytorchserver.tensor_requests import ArrayReader

Note = Callable[[Mapping[str, torch.Tensor], Any], None]
Rules = Mapping[str, Rule]
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Served:
    """A network and what is known of it, so that a request sees all of one load."""

    network: Network
    reader: Reader
    arrays: ArrayReader
    known: Known
    threads: int
    output_names: tuple[str, ...] = ()
    """The author's; empty: those that the outputs have of themselves."""

    @classmethod
    def of(cls, network: Network, device: torch.device) -> Served:
        """Find out what the network takes, and settle how requests are read.

        Raises:
            ModelLoadError: what its author says of inputs and outputs is not so.
        """
        module = network.module
        floating = _floating_dtype(module)
        said = declared(None if module is None else type(module), network.arguments)
        known = probe(network, floating or torch.float32, device, said)
        if said.outputs:
            if known.outputs:
                check_outputs(said.outputs, known.outputs)
            known = replace(known, outputs=said.outputs)
        guess = Rule(floating or torch.float32, certain=False, keep_integers=_has_embedding(module))
        reader = Reader(network.arguments, rules_from(known.inputs, said.dtypes), guess, device)
        arrays = ArrayReader(reader, known.inputs, keeps_floats=floating is None)
        return cls(network, reader, arrays, known, cpu_threads.most(), tuple(said.outputs))

    def answer(self, payload: Any, note: Note | None = None) -> dict[str, Any]:
        """Answer a V1 request.

        Args:
            payload: the request.
            note: told what went into ``forward``, by name, and what came out.

        Raises:
            InvalidInput: the instances are not what the network takes.
            InferenceError: the network did not give one prediction per row.
        """
        instances = _instances(payload)
        if len(instances) == 0:  # refused as TensorFlow Serving refuses it
            raise InvalidInput('No values in "instances": expected one row at least')
        batch = self.reader.read(instances)
        self._check(batch)
        try:
            output = self.forward(batch)
        except FORWARD_ERRORS as error:
            ways = (
                (rules, lambda rules=rules: self.reader.read(instances, rules))
                for rules in self.reader.other_rules(batch)
            )
            rules, batch, output = self._try_again(batch, ways, error)
            self.reader.rules.update(rules)
        if note is not None:
            note(batch.named(self.network.arguments), output)
        try:
            return {"predictions": predictions(output, batch.rows)}
        except InferenceError as error:
            self._refuse_misfit(batch, error)
            raise

    def run(self, request: TensorRequest, model_name: str) -> TensorResponse:
        """Answer named arrays with named arrays.

        Raises:
            InvalidInput: the arrays are not what the network takes, or it has no such output.
            InferenceError: an output is no tensor.
        """
        batch = self.arrays.read(request.inputs)
        self._check(batch)
        try:
            output = self.forward(batch)
        except FORWARD_ERRORS as error:
            others = self.arrays.other_ways(request.inputs)
            no_rules: Rules = {}
            ways = ((no_rules, lambda other=other: other) for other in others)
            _, batch, output = self._try_again(batch, ways, error)
        return TensorResponse(self._named(output, batch, request.outputs, model_name))

    def forward(self, batch: Batch) -> Any:
        """Call the network, on its number of threads."""
        cpu_threads.use(self.threads)
        return self.forward_as_is(batch)

    def forward_as_is(self, batch: Batch) -> Any:
        """On however many threads are set."""
        with torch.inference_mode():
            return self.network.call(*batch.args, **batch.kwargs)

    def _named(self, output: Any, batch: Batch, wanted: Any, model_name: str) -> Any:
        try:
            arrays = named_arrays(output, batch.rows, self.known.outputs, self.output_names, wanted)
        except KeyError as error:
            name = str(error.args[0])[:_SHOWN]
            raise InvalidInput(f"Unexpected inference output '{name}' for model '{model_name}'") from None
        if batch.rows and any(len(array) != batch.rows for array in arrays.values() if array.ndim):
            self._refuse_misfit(batch, None)
        return arrays

    def _refuse_misfit(self, batch: Batch, error: Exception | None) -> None:
        """Where the answer has other rows than the request, mostly the request was of another shape."""
        odd = misfit(batch.named(self.network.arguments), self.known.inputs, batch.is_named)
        if odd:
            raise InvalidInput(odd) from error

    def _check(self, batch: Batch) -> None:
        """Refuse what the network would take for something else, or break on."""
        known = self.known
        if (
            known.stated
            or (batch.args and batch.args[0].ndim < known.least_dims)
            or _would_broadcast(batch, known)
        ):
            odd = misfit(batch.named(self.network.arguments), known.inputs, batch.is_named)
            if odd:
                raise InvalidInput(odd + self._why_fixed())
        if known.index_limit and batch.args and batch.args[0].numel():
            # On CUDA an index out of range ends the process's use of the device, not just the request.
            low, high = (int(value) for value in batch.args[0].aminmax())
            if low < 0 or high >= known.index_limit:
                name = next(iter(known.inputs))
                what = f'input "{name}" holds' if batch.is_named else '"instances" hold'
                raise InvalidInput(
                    f"{what} the index {low if low < 0 else high}, expected 0 to {known.index_limit - 1}"
                )

    def _why_fixed(self) -> str:
        rows = next(iter(self.known.inputs.values())).shape[:1]
        if rows == (ANY,) or not self.network.inputs:
            return ""
        return ". The program was exported for this number of rows only: export it with dynamic_shapes"

    def _try_again(
        self, batch: Batch, ways: Iterable[tuple[Rules, Callable[[], Batch]]], error: Exception
    ) -> tuple[Rules, Batch, Any]:
        """Other dtypes, if that is what ``forward`` minds; else say whose error it is.

        Returns:
            The rules that worked, the batch that they make, and the output.
        """
        if is_about_dtype(error):
            for rules, read in ways:
                with contextlib.suppress(*FORWARD_ERRORS, InvalidInput):
                    other = read()
                    return rules, other, self.forward(other)
        named = batch.named(self.network.arguments)
        refused = refusal(error, named, self.known.inputs, batch.is_named)
        if refused is None:
            raise error
        raise refused from error


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


def _floating_dtype(module: torch.nn.Module | None) -> torch.dtype | None:
    """The dtype of the network's parameters; ``None`` if it has none."""
    tensors = [*module.parameters(), *module.buffers()] if module is not None else []
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def _has_embedding(module: torch.nn.Module | None) -> bool:
    kinds = {"Embedding", "EmbeddingBag"}
    layers = module.modules() if module is not None else ()
    return any({type(layer).__name__, getattr(layer, "original_name", "")} & kinds for layer in layers)

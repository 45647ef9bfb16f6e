"""Requests of named arrays (``TensorRequest``), which V2's and gRPC's are made of, to the tensors that
``forward`` takes.

Rules of the room: arrays in, tensors out; calls no network. A client that sends arrays says their dtype, so
nothing is cast where it is certain what the network takes. Where it is not, integers and booleans go as they
are, floating numbers as the dtype of the parameters, and ``other_ways`` are tried if ``forward`` minds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from modelserver import InvalidInput
from pytorchserver.datatypes import ARRAY_DTYPES, DATATYPES, datatype_of
from pytorchserver.instances import Batch, Reader
from pytorchserver.network import ANY, TensorInfo

Arrays = Mapping[str, np.ndarray]
_SHOWN = 80
_NUMBERS = "fiub"


class ArrayReader:
    """Turns named arrays into tensors for one network.

    Args:
        reader: how the network's inputs are read.
        infos: what is known of the inputs.
        keeps_floats: the network has no parameters whose dtype floating numbers should have.
    """

    def __init__(self, reader: Reader, infos: Mapping[str, TensorInfo], keeps_floats: bool) -> None:
        self._reader = reader
        self._infos = infos
        self._keeps_floats = keeps_floats

    def read(self, arrays: Arrays) -> Batch:
        """Turn the arrays of a request into a batch.

        Raises:
            InvalidInput: there is an input that ``forward`` does not take, one is missing, has no rows or
                another number of them, or is of another datatype.
        """
        self._check_names(arrays)
        self._check_rows(arrays)
        return self._batch({name: self._tensor(array, name) for name, array in arrays.items()})

    def other_ways(self, arrays: Arrays) -> Iterator[Batch]:
        """Other dtypes for the inputs where they are not certain, most likely first."""
        rules = {name: self._reader.rule(name) for name in arrays}
        first = {name: self._tensor(array, name) for name, array in arrays.items()}
        as_parameters = {
            name: first[name] if rule.certain else first[name].to(rule.dtype) for name, rule in rules.items()
        }
        as_sent = {
            name: first[name] if rule.certain else self._reader.tensor(self._plain(arrays[name], name), None)
            for name, rule in rules.items()
        }
        for way in (as_parameters, as_sent):
            if any(way[name].dtype != tensor.dtype for name, tensor in first.items()):
                yield self._batch(way)

    def _batch(self, tensors: Mapping[str, torch.Tensor]) -> Batch:
        counts = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors.values()}
        rows = counts.pop() if len(counts) == 1 else 0
        names = self._reader.arguments.names
        if len(tensors) == 1 and (not names or names[0] in tensors):
            return Batch(rows, args=tuple(tensors.values()), is_named=True)
        return Batch(rows, kwargs=tensors, is_named=True)

    def _check_names(self, arrays: Arrays) -> None:
        takes = self._reader.arguments
        if not (takes.names or takes.takes_any):  # a forward of *args
            wrong = "" if len(arrays) == 1 else f"{len(arrays)} inputs"
        else:
            unknown = [name for name in arrays if name not in takes.names and not takes.takes_any]
            missing = [name for name in takes.required if name not in arrays]
            wrong = f'unexpected input "{unknown[0][:_SHOWN]}"' if unknown else ""
            wrong = wrong or (f'input "{missing[0]}" is missing' if missing else "")
            wrong = wrong or ("" if arrays else "no inputs")
        if wrong:
            raise InvalidInput(f"{wrong}; the model takes {self._takes()}")

    def _check_rows(self, arrays: Arrays) -> None:
        """Inputs that are known to have rows have as many."""
        counts = {
            name: len(array)
            for name, array in arrays.items()
            if array.ndim and name in self._infos and self._infos[name].shape[:1] == (ANY,)
        }
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InvalidInput(f"The inputs have different numbers of rows: {told}")

    def _takes(self) -> str:
        """The inputs, with datatype and shape where these are known."""
        if not self._infos:
            return self._reader.arguments.text() or "one input"
        return ", ".join(f'"{name}" {info.datatype} {list(info.shape)}' for name, info in self._infos.items())

    def _tensor(self, array: np.ndarray, name: str) -> torch.Tensor:
        rule = self._reader.rule(name)
        if array.ndim and not len(array):
            raise InvalidInput(f'No values in input "{name}": expected one row at least')
        if rule.dtype == torch.bfloat16 and array.dtype.name == "bfloat16":  # of ml_dtypes
            return self._reader.tensor(array.view(np.int16), None).view(torch.bfloat16)
        if array.dtype != ARRAY_DTYPES[rule.dtype]:
            sent, array = array.dtype, self._plain(array, name)
            if rule.certain and (array.dtype != ARRAY_DTYPES[rule.dtype] or sent.name == "bfloat16"):
                raise self._misfit(name, sent)
        keeps = self._keeps_floats and not rule.certain
        return self._reader.tensor(array, rule.dtype if rule.dtype.is_floating_point and not keeps else None)

    def _plain(self, array: np.ndarray, name: str) -> np.ndarray:
        """Numbers as torch reads them: in the machine's order of bytes, bfloat16 as float32."""
        if array.dtype.name == "bfloat16":  # of ml_dtypes, which TensorFlow's clients send
            return array.astype(np.float32)
        if array.dtype.kind not in _NUMBERS:
            raise self._misfit(name, array.dtype)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))

    def _misfit(self, name: str, sent: np.dtype) -> InvalidInput:
        rule, info = self._reader.rule(name), self._infos.get(name)
        expected = (info.datatype if info else DATATYPES[rule.dtype]) if rule.certain else "numbers"
        return InvalidInput(f'input "{name}" has the datatype {datatype_of(sent)}, expected {expected}')

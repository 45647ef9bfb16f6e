"""What a network takes and gives, learned from requests that it has answered: those of ``warmup.json``.

For a network of which nothing could be found out. It is metadata, and no rule: how V1 rows are read does not
change by it.

Rules of the room: tensors in, descriptions out. Calls the network a few times more, at load, to learn which
sizes are free: two requests with texts of eight words say nothing about nine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from pytorchserver.network import ANY, Network, TensorInfo
from pytorchserver.outputs import is_tuple
from pytorchserver.probing import described, merged

BUDGET_S = 1.0
_MOST_VALUES = 1 << 20
"""In an input that is made larger to try it."""

Infos = dict[str, TensorInfo]


class Learned:
    """What several answered requests have in common.

    Attributes:
        inputs: dtype and shape by name, any number of rows; empty until a request is noted.
        outputs: the same.
        is_tuple: ``forward`` has returned one.
    """

    def __init__(self, output_names: tuple[str, ...] = ()) -> None:
        self._names = output_names
        self._first: Mapping[str, torch.Tensor] | None = None
        self.is_tuple = False
        self.inputs: Infos = {}
        self.outputs: Infos = {}

    def note(self, tensors: Mapping[str, torch.Tensor], output: Any) -> None:
        """Take in a request and its answer."""
        self.is_tuple = is_tuple(output)
        rows = {tensor.shape[0] for tensor in tensors.values() if tensor.ndim}
        inputs = {name: _info(tensor) for name, tensor in tensors.items()}
        inputs = {name: _with_open_rows(info, rows) for name, info in inputs.items()}
        outputs = {name: _with_open_rows(info, rows) for name, info in described(output, self._names).items()}
        if self._first is None:
            self._first, self.inputs, self.outputs = tensors, inputs, outputs
        else:
            self.inputs, self.outputs = merged(self.inputs, inputs), merged(self.outputs, outputs)

    def try_other_sizes(self, network: Network, stated: Mapping[str, TensorInfo]) -> None:
        """Give the network the first request in other sizes, to see which of them are free.

        Inputs with the same size in the same place, such as words and their mask, change together or alone.

        Args:
            network: which has answered it.
            stated: what is known of its inputs; sizes that are fixed there stay as they are.
        """
        first = self._first or {}
        until = time.monotonic() + BUDGET_S
        sizes = {(place, tensor.shape[place]) for tensor in first.values() for place in range(1, tensor.ndim)}
        for place, size in sorted(sizes):
            alike = [
                name
                for name, tensor in first.items()
                if tensor.shape[place : place + 1] == (size,) and not _is_fixed(stated, name, place)
            ]
            for names in [alike, *([name] for name in alike if len(alike) > 1)]:
                for times in (2, 0.5):
                    if time.monotonic() > until:
                        return
                    if not any(_is_fixed(self.inputs, name, place) for name in names):
                        break
                    with contextlib.suppress(Exception, SystemExit):  # then that size is not free
                        tensors = {name: tensor.clone() for name, tensor in first.items()}
                        tensors |= {name: _resized(first[name], place, times) for name in names}
                        with torch.inference_mode():
                            self.note(tensors, network.run(tensors))


def _is_fixed(infos: Mapping[str, TensorInfo], name: str, place: int) -> bool:
    return name in infos and infos[name].shape[place : place + 1] != (ANY,)


def _info(tensor: torch.Tensor) -> TensorInfo:
    return TensorInfo(tensor.dtype, tuple(tensor.shape))


def _with_open_rows(info: TensorInfo, rows: set[int]) -> TensorInfo:
    is_per_row = not info.shape or info.shape[0] in rows
    return replace(info, shape=(ANY, *info.shape[1:])) if is_per_row else info


def _resized(tensor: torch.Tensor, place: int, times: float) -> torch.Tensor:
    """Twice the size in one dimension, with the same values again, or half of it.

    Raises:
        ValueError: there is nothing to halve, or it would be large.
    """
    size = tensor.shape[place]
    if size < 2 if times < 1 else tensor.numel() > _MOST_VALUES:
        raise ValueError("not to be resized")
    return tensor.narrow(place, 0, size // 2).clone() if times < 1 else torch.cat([tensor, tensor], place)

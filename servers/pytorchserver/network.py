"""``Network``: a loaded network and what it is called with, whatever file it came from.

Rules of the room: plain facts, worked out once at load; no file is read here. ``model_class``, ``programs``
make one, ``instances`` and ``probing`` read it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pytorchserver.datatypes import DATATYPES

ANY = -1
"""A dimension of any size, in the shapes of this package and of the V2 protocol."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: its dtype and its shape, batch first, ``ANY`` where the size is free."""

    dtype: torch.dtype
    shape: Shape
    declared: str = ""
    """The V2 datatype in ``model.py``'s words. Empty: that of the dtype."""

    @property
    def datatype(self) -> str:
        """What V2 calls its dtype; empty: it has no word for it."""
        return self.declared or DATATYPES.get(self.dtype, "")

    def fits(self, shape: Shape) -> bool:
        """Whether a tensor of ``shape`` is one of these."""
        return len(shape) == len(self.shape) and all(
            want in (ANY, got) for got, want in zip(shape, self.shape, strict=True)
        )

    def text(self) -> str:
        """``[rows, 4]``; a free size further right is ``any``."""
        first = "rows" if self.shape[:1] == (ANY,) else str(self.shape[0]) if self.shape else ""
        rest = ["any" if size == ANY else str(size) for size in self.shape[1:]]
        return f"[{', '.join([first, *rest])}]"


@dataclass(frozen=True)
class Arguments:
    """What ``forward`` takes."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    takes_any: bool = False
    """``**kwargs``: keys that are not in ``names`` too."""

    def text(self) -> str:
        """The names, for a message; those that may be left out in brackets."""
        shown = [name if name in self.required else f"[{name}]" for name in self.names]
        return ", ".join([*shown, "**kwargs"] if self.takes_any else shown)


def _nothing() -> None:
    """The ``close`` of a network that holds nothing."""


@dataclass(frozen=True)
class Network:
    """Something to call with tensors."""

    call: Callable[..., Any]
    arguments: Arguments
    description: str
    """For the log: class and file."""
    module: torch.nn.Module | None = None
    """Its layers, for a look at what the first one takes. ``None``: there are none to see."""
    inputs: Mapping[str, TensorInfo] = field(default_factory=dict)
    """What the file itself states of its inputs, binding. Empty: nothing."""
    sizes: Mapping[str, Shape] = field(default_factory=dict)
    """The shapes that the file was made with: one choice for the sizes that ``inputs`` leaves free."""
    close: Callable[[], None] = _nothing
    """Gives back what loading took."""

    def run(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        """Call it with tensors by name: its first argument alone goes by place, as rows do."""
        if len(tensors) == 1:
            [(name, tensor)] = tensors.items()
            if name in self.arguments.names[:1] or not self.arguments.names:
                return self.call(tensor)
        return self.call(**tensors)


def arguments_of(forward: Callable[..., Any]) -> Arguments:
    """Read the signature of a Python ``forward``."""
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        return Arguments((), (), takes_any=True)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Arguments(
        names=tuple(p.name for p in named),
        required=tuple(p.name for p in named if p.default is p.empty),
        takes_any=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )

"""A request and an answer of the Open Inference Protocol (V2) as values, whatever the wire format.

Rules of the room: data without behaviour. ``v2_rest`` and ``v2_grpc`` read and write them; what a model gets
and gives are the classes of ``messages``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

Parameters = Mapping[str, Any]
"""By name: ``str``, ``bool``, ``int`` or ``float``."""

NO_PARAMETERS: Parameters = MappingProxyType({})


class Tensor(NamedTuple):
    """An input or an output."""

    name: str
    datatype: str
    shape: Sequence[int]
    array: np.ndarray
    """As ``datatypes`` has it."""
    parameters: Parameters = NO_PARAMETERS
    is_binary: bool = False
    """It came, or is to go, as raw bytes."""


class Wanted(NamedTuple):
    """An output that a request asks for."""

    name: str
    parameters: Parameters = NO_PARAMETERS


class Request(NamedTuple):
    """What a client asks."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Wanted] = ()
    """None named: all."""
    id: str = ""
    parameters: Parameters = NO_PARAMETERS
    model_name: str = ""
    model_version: str = ""


class Response(NamedTuple):
    """What it is answered."""

    model_name: str
    outputs: Sequence[Tensor]
    model_version: str = ""
    id: str = ""
    parameters: Parameters = NO_PARAMETERS

"""What passes between a client, its dialect and its transport; and what a user gets.

Rules of the room: data. A dialect's method is a generator: it yields each ``Call`` that it wants to be made,
is sent the ``Reply``, and returns what the user gets. So it is the same for threads and for an event loop.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from modelserver.messages import InferRequest

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
SUCCESS = range(200, 300)

Inputs = np.ndarray | Sequence[Any] | Mapping[str, Any] | InferRequest
"""One array or nested list, or several by name; or a request in KServe's form."""

T = TypeVar("T")


class Call(NamedTuple):
    """A request that is to be sent."""

    method: str
    """Of HTTP."""
    path: str
    body: Sequence[bytes | memoryview] = ()
    """In pieces, so that arrays need not be copied together. For gRPC one: the message."""
    headers: Mapping[str, str] = NO_HEADERS
    answers: Container[int] = SUCCESS
    """The statuses that are answers; any other is an error."""


class Reply(NamedTuple):
    """What came back."""

    status: int
    """Of HTTP; for gRPC the one that means the same."""
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes | memoryview | str
    """``str`` is a text of gRPC's."""


Steps = Generator[Call, Reply, T]


class Question(NamedTuple):
    """What a user asks of a model; as the arguments of ``Client.infer``."""

    model: str
    inputs: Inputs
    version: int | str | None = None
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Any] = NO_HEADERS
    id: str = ""
    headers: Mapping[str, str] = NO_HEADERS


class Answer(Mapping[str, np.ndarray]):
    """What a model has answered: its outputs by name, as arrays.

    Text is in ``object`` arrays of ``bytes``. Large numeric arrays are views of the received bytes.

    Args:
        outputs: in the server's order.
        model_name: as the server says it.
        model_version: that answered; empty: it is not said.
        id: of the request.
        parameters: of the answer.

    Attributes:
        outputs: the same, as a dictionary.
        model_name: the same.
        model_version: the same.
        id: the same.
        parameters: the same.

    >>> answer = Answer({"scores": np.array([0.5, 0.25])}, "iris")
    >>> answer["scores"] is answer.array
    True
    """

    def __init__(
        self,
        outputs: Mapping[str, np.ndarray],
        model_name: str,
        model_version: str = "",
        id: str = "",
        parameters: Mapping[str, Any] = NO_HEADERS,
    ) -> None:
        self.outputs = dict(outputs)
        self.model_name = model_name
        self.model_version = model_version
        self.id = id
        self.parameters = parameters

    @property
    def array(self) -> np.ndarray:
        """The only output.

        Raises:
            ValueError: there are several, or none.
        """
        if len(self.outputs) != 1:
            raise ValueError(f"the answer has {len(self)} outputs, take one by its name: {', '.join(self)}")
        [array] = self.outputs.values()
        return array

    def __getitem__(self, name: str) -> np.ndarray:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    def __repr__(self) -> str:
        shapes = {name: f"{array.dtype}{list(array.shape)}" for name, array in self.outputs.items()}
        return f"Answer(model_name={self.model_name!r}, model_version={self.model_version!r}, {shapes})"

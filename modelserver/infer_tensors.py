"""The tensors of a V2 request and of its answer, with KServe's names.

Rules of the room: values without I/O. Tensors are arrays, and stay arrays from the request's bytes to the
answer's. numpy is imported by whoever makes an array: looking at ``Model`` need not wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelserver.errors import InferenceError, InvalidInput
from modelserver.protocols.v2_values import NO_PARAMETERS, Tensor

if TYPE_CHECKING:
    from typing import Self

    import numpy as np


class InferTensor:
    """What an input and an output have in common; the names are KServe's.

    Args:
        name: of the tensor.
        shape: its sizes.
        datatype: the protocol's name of it: ``FP32``, ``INT64``, ``BYTES``.
        data: an array, or a list as JSON has it, flat or nested.
        parameters: the protocol's, of the tensor.

    Attributes:
        name: the same.
        datatype: the same, in capitals.
        parameters: the same; a dictionary, or ``None``.
        shape: a list.
        is_binary: it came, or is to go, as raw bytes.
    """

    _kind = "tensor"

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        datatype: str,
        data: Any = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.shape = list(shape)
        self.datatype = datatype.upper()
        self.parameters = parameters
        self.is_binary = False
        self._data = data
        self._array: np.ndarray | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """The object of a tensor that has been read."""
        made = cls(tensor.name, tensor.shape, tensor.datatype, None, tensor.parameters or None)
        made._array = tensor.array
        made.is_binary = tensor.is_binary
        return made

    @property
    def data(self) -> Any:
        """What was given; of a tensor that was sent, the array, or a list of text where JSON strings came."""
        if self._data is not None or self._array is None:
            return self._data
        array = self._array
        if self.datatype == "BYTES" and array.size and isinstance(array.flat[0], str):
            return array.tolist()
        return array

    @data.setter
    def data(self, data: Any) -> None:
        self._data, self._array = data, None

    def as_numpy(self) -> np.ndarray:
        """The array, of the tensor's shape.

        BF16 comes as ``float32``, BYTES as objects: ``str`` from JSON, ``bytes`` from binary data.

        Raises:
            InvalidInput: there are no data, or they do not fit datatype and shape.
        """
        array = self._array
        if array is None:
            array = self._array = self._made()
        if array.shape == tuple(self.shape):
            return array
        try:
            return array.reshape(self.shape)
        except ValueError:
            raise InvalidInput(
                f'{self._kind} "{self.name}": data have the shape {list(array.shape)}, expected {self.shape}'
            ) from None

    def _made(self) -> np.ndarray:
        import numpy as np

        from modelserver import datatypes

        title, data = f'{self._kind} "{self.name}"', self._data
        if data is None:
            raise InvalidInput(f"{title} has no data")
        if hasattr(data, "__array__"):  # a numpy scalar, a column of a table
            array = datatypes.cast(np.asarray(data), self.datatype, title)
            if array.size != datatypes.element_count(self.shape, title):
                raise InvalidInput(f"{title}: data have the shape {list(array.shape)}, expected {self.shape}")
            return array
        if not isinstance(data, list | tuple):
            raise InvalidInput(f"{title}: data are {type(data).__name__}, expected a list or an array")
        if self.datatype == "BYTES" and any(isinstance(value, bytes) for value in data):
            flat = np.empty(len(data), object)
            flat[:] = data
            return flat
        return datatypes.from_values(list(data), self.datatype, self.shape, title)

    def as_string(self) -> list[str]:
        """The elements of a BYTES tensor as text, in row order.

        Raises:
            InvalidInput: it is no BYTES tensor, or not all of it is UTF-8.
        """
        if self.datatype != "BYTES":
            raise InvalidInput(f'{self._kind} "{self.name}" is {self.datatype}, expected BYTES for text')
        from modelserver import datatypes

        try:
            return [value.decode() for value in datatypes.texts(self.as_numpy())]
        except UnicodeDecodeError:
            raise InvalidInput(f'{self._kind} "{self.name}" holds bytes that are no UTF-8') from None

    def set_data_from_numpy(self, array: np.ndarray, binary_data: bool = True) -> None:
        """Take an array of the tensor's datatype and shape; it is not copied.

        Args:
            array: of the datatype; ``float32`` for BF16.
            binary_data: as a client: send it as raw bytes. A server sends what its client asks for.

        Raises:
            InferenceError: the array is of another datatype or shape.
        """
        import numpy as np

        from modelserver import datatypes

        title = f'{self._kind} "{self.name}"'
        if not isinstance(array, np.ndarray):
            raise InferenceError(f"{title}: data are {type(array).__name__}, expected a numpy array")
        try:
            got = datatypes.datatype_of(array.dtype)
        except TypeError as error:
            raise InferenceError(f"{title}: {error}") from error
        if got != self.datatype and not (self.datatype == "BF16" and got == "FP32"):
            raise InferenceError(f"{title}: the array is {got}, expected {self.datatype}")
        if list(array.shape) != self.shape:
            raise InferenceError(
                f"{title}: the array has the shape {list(array.shape)}, expected {self.shape}"
            )
        self._data, self._array, self.is_binary = None, array, binary_data

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "name": self.name,
            "shape": self.shape,
            "datatype": self.datatype,
            "data": self.data,
            "parameters": self.parameters,
        }

    def value(self) -> Tensor:
        """The tensor to be written."""
        return Tensor(
            self.name,
            self.datatype,
            self.shape,
            self.as_numpy(),
            self.parameters or NO_PARAMETERS,
            self.is_binary,
        )

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, InferTensor)
        mine, its = self.to_dict(), other.to_dict()
        mine["data"], its["data"] = self.as_numpy().tolist(), other.as_numpy().tolist()
        return mine == its

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, shape={self.shape}, datatype={self.datatype!r})"


class InferInput(InferTensor):
    """An input; what it is made of is described at ``InferTensor``."""

    _kind = "input"


class InferOutput(InferTensor):
    """An output; what it is made of is described at ``InferTensor``."""

    _kind = "output"


class RequestedOutput:
    """An output that a request asks for.

    Args:
        name: of the output.
        parameters: the protocol's; ``binary_data``: as raw bytes.

    Attributes:
        name: the same.
        parameters: the same.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.parameters = parameters

    @property
    def binary_data(self) -> bool | None:
        """Whether it is wanted as raw bytes; ``None``: as the request says."""
        return None if self.parameters is None else self.parameters.get("binary_data")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RequestedOutput) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"RequestedOutput(name={self.name!r}, parameters={self.parameters})"


def set_raw(tensors: Sequence[InferTensor], raw: Sequence[bytes]) -> None:
    """Give each tensor its raw bytes.

    Raises:
        InvalidInput: they are not as many as the tensors, or do not fit one.
    """
    from modelserver import datatypes

    if len(raw) != len(tensors):
        raise InvalidInput(f"{len(raw)} raw contents for {len(tensors)} tensors, expected one for each")
    for tensor, data in zip(tensors, raw, strict=True):
        tensor._array = datatypes.unpack(data, tensor.datatype, tensor.shape, f'"{tensor.name}"')
        tensor._data, tensor.is_binary = None, True

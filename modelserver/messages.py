"""What doors and models say to each other beyond V1 bodies: named arrays, and KServe's requests and answers.

Rules of the room: as in ``infer_tensors``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelserver.errors import InferenceError, InvalidInput
from modelserver.infer_tensors import InferInput, InferOutput, InferTensor, RequestedOutput, set_raw
from modelserver.protocols.v2_values import NO_PARAMETERS, Request, Response, Tensor, Wanted

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class TensorRequest:
    """A request as named arrays, as a gRPC client sends it."""

    inputs: Mapping[str, np.ndarray]
    """Strings are arrays of ``bytes`` objects."""

    signature_name: str = ""
    """Of the function to call; empty: the default one."""

    outputs: Sequence[str] = ()
    """The outputs that are wanted; none named: all."""


@dataclass(frozen=True, slots=True)
class TensorResponse:
    """An answer as named arrays."""

    outputs: Mapping[str, np.ndarray]
    """Strings are arrays of ``bytes`` objects."""

    signature_name: str = ""
    """What was called."""


class InferRequest:
    """A V2 request, from REST or gRPC: what ``preprocess`` gets of it. The names are KServe's.

    Args:
        model_name: of the model that is asked.
        infer_inputs: the inputs.
        request_id: the client's name for it.
        raw_inputs: the inputs' raw bytes, in their order, where the inputs have no data.
        from_grpc: it came over gRPC.
        parameters: the protocol's, of the request.
        request_outputs: the outputs that are wanted; none: all.
        model_version: that is asked; empty: the newest.

    Attributes:
        id: the same as ``request_id``; where the client gave none, the server's.
        inputs: the same as ``infer_inputs``.
        model_name: the same.
        model_version: the same.
        parameters: the same.
        request_outputs: the same.
        from_grpc: the same.
    """

    def __init__(
        self,
        model_name: str,
        infer_inputs: list[InferInput],
        request_id: str | None = None,
        raw_inputs: Sequence[bytes] | None = None,
        from_grpc: bool | None = False,
        parameters: Mapping[str, Any] | None = None,
        request_outputs: list[RequestedOutput] | None = None,
        model_version: str | None = None,
    ) -> None:
        self.id = request_id
        self.model_name = model_name
        self.inputs = infer_inputs
        self.parameters = parameters
        vars(self)["from_grpc"] = bool(from_grpc)  # beside the class method of that name, as in KServe
        self.request_outputs = request_outputs
        self.model_version = model_version
        if raw_inputs:
            set_raw(infer_inputs, raw_inputs)

    @classmethod
    def of(cls, request: Request, model_name: str, *, from_grpc: bool = False) -> InferRequest:
        """The object of a request that has been read."""
        outputs = [RequestedOutput(name, parameters or None) for name, parameters in request.outputs]
        return cls(
            model_name,
            [InferInput.of(tensor) for tensor in request.inputs],
            request.id or None,
            None,
            from_grpc,
            request.parameters or None,
            outputs or None,
            request.model_version or None,
        )

    @classmethod
    def from_bytes(cls, req_bytes: bytes, json_length: int, model_name: str) -> InferRequest:
        """The request in the body of a REST request.

        Args:
            req_bytes: the body.
            json_length: bytes of JSON at its start; binary tensors follow.
            model_name: of the model that is asked.

        Raises:
            InvalidInput: it is no such request.
        """
        from modelserver.protocols import v2_rest

        return cls.of(v2_rest.decode_request(req_bytes, json_length), model_name)

    def to_rest(self) -> tuple[bytes | dict[str, Any], int | None]:
        """The body of a REST request: a dictionary for JSON and ``None``, or bytes and how many are JSON."""
        from modelserver.protocols import v2_rest

        return _rest(*v2_rest.encode_request(self.value()))

    @classmethod
    def from_grpc(cls, request: Any) -> InferRequest:
        """The request in a ``ModelInferRequest`` of any package. It takes protobuf.

        Raises:
            InvalidInput: it is no such request.
        """
        from modelserver.protocols import v2_grpc

        return cls.of(v2_grpc.request_of(request), request.model_name, from_grpc=True)

    def to_grpc(self) -> Any:
        """A ``ModelInferRequest``, which any package's stub sends. It takes protobuf. Arrays go raw, as in
        KServe; lists in ``contents``, if all inputs are lists."""
        from modelserver.protocols import v2_grpc

        request = self.value()
        return v2_grpc.request_message(request._replace(inputs=_arrays_raw(self.inputs, request.inputs)))

    def value(self) -> Request:
        """The request to be written."""
        return Request(
            [tensor.value() for tensor in self.inputs],
            [
                Wanted(wanted.name, wanted.parameters or NO_PARAMETERS)
                for wanted in self.request_outputs or ()
            ],
            self.id or "",
            self.parameters or NO_PARAMETERS,
            self.model_name,
            self.model_version or "",
        )

    @property
    def use_binary_outputs(self) -> bool:
        """Whether outputs go as raw bytes: over gRPC if the inputs came so, over REST if that is asked."""
        if vars(self)["from_grpc"]:
            return any(tensor.is_binary for tensor in self.inputs)
        return bool((self.parameters or {}).get("binary_data_output", False))

    def get_input_by_name(self, name: str) -> InferInput | None:
        """The input of that name, or ``None``."""
        return next((tensor for tensor in self.inputs if tensor.name == name), None)

    def as_dataframe(self) -> Any:
        """The inputs as the columns of a ``pandas.DataFrame``; text as ``str``.

        Raises:
            InvalidInput: an input has more than one value in a row.
        """
        import pandas

        columns = {}
        for tensor in self.inputs:
            array = tensor.as_numpy()
            if array.ndim != 1 and array.size != len(array):
                raise InvalidInput(
                    f'input "{tensor.name}" has the shape {tensor.shape}, expected one value in a row as it '
                    "is a column of a table"
                )
            columns[tensor.name] = tensor.as_string() if tensor.datatype == "BYTES" else array.reshape(-1)
        return pandas.DataFrame(columns)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "id": self.id,
            "model_name": self.model_name,
            "inputs": [tensor.to_dict() for tensor in self.inputs],
            "parameters": self.parameters,
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InferRequest) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"InferRequest(model_name={self.model_name!r}, id={self.id!r}, inputs={self.inputs})"


class InferResponse:
    """A V2 answer: what ``predict`` or ``postprocess`` may return. The names are KServe's.

    Args:
        response_id: the request's.
        model_name: of the model that answers.
        infer_outputs: the outputs.
        model_version: of the model that answers.
        raw_outputs: the outputs' raw bytes, in their order, where the outputs have no data.
        from_grpc: it came over gRPC.
        parameters: the protocol's, of the answer.
        use_binary_outputs: send raw bytes over REST, though the client does not ask.
        requested_outputs: send these only. The server does what the request asks also without it.

    Attributes:
        id: the same as ``response_id``.
        outputs: the same as ``infer_outputs``.
        model_name: the same.
        model_version: the same.
        parameters: the same.
        from_grpc: the same.
        use_binary_outputs: the same.
        requested_outputs: the same.
    """

    def __init__(
        self,
        response_id: str | None,
        model_name: str,
        infer_outputs: list[InferOutput],
        model_version: str | None = None,
        raw_outputs: Sequence[bytes] | None = None,
        from_grpc: bool | None = False,
        parameters: Mapping[str, Any] | None = None,
        use_binary_outputs: bool | None = False,
        requested_outputs: list[RequestedOutput] | None = None,
    ) -> None:
        self.id = response_id
        self.model_name = model_name
        self.model_version = model_version
        self.outputs = infer_outputs
        self.parameters = parameters
        vars(self)["from_grpc"] = bool(from_grpc)  # beside the class method of that name, as in KServe
        self.use_binary_outputs = bool(use_binary_outputs)
        self.requested_outputs = requested_outputs
        if raw_outputs:
            set_raw(infer_outputs, raw_outputs)

    @classmethod
    def of(cls, response: Response, *, from_grpc: bool = False) -> InferResponse:
        """The object of an answer that has been read."""
        return cls(
            response.id or None,
            response.model_name,
            [InferOutput.of(tensor) for tensor in response.outputs],
            response.model_version or None,
            None,
            from_grpc,
            response.parameters or None,
        )

    @classmethod
    def from_rest(cls, response: Mapping[str, Any]) -> InferResponse:
        """The answer in the JSON object of a REST answer.

        Raises:
            InvalidInput: it is no such answer.
        """
        import orjson

        from modelserver.protocols import v2_rest

        body = orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
        return cls.of(v2_rest.decode_response(body))

    @classmethod
    def from_bytes(cls, res_bytes: bytes, json_length: int) -> InferResponse:
        """The answer in the body of a REST answer.

        Args:
            res_bytes: the body.
            json_length: bytes of JSON at its start; binary tensors follow.

        Raises:
            InvalidInput: it is no such answer.
        """
        from modelserver.protocols import v2_rest

        return cls.of(v2_rest.decode_response(res_bytes, json_length))

    def to_rest(self) -> tuple[bytes | dict[str, Any], int | None]:
        """The body of a REST answer: a dictionary for JSON and ``None``, or bytes and how many are JSON.

        Raises:
            InvalidInput: an output was asked for that is not there.
        """
        from modelserver.protocols import v2_rest

        return _rest(*v2_rest.encode_response(self.value(self.requested_outputs)))

    @classmethod
    def from_grpc(cls, response: Any) -> InferResponse:
        """The answer in a ``ModelInferResponse`` of any package. It takes protobuf.

        Raises:
            InvalidInput: it is no such answer.
        """
        from modelserver.protocols import v2_grpc

        return cls.of(v2_grpc.response_of(response), from_grpc=True)

    def to_grpc(self) -> Any:
        """A ``ModelInferResponse``. It takes protobuf. Arrays go raw, as in KServe; lists in ``contents``, if
        all outputs are lists.

        Raises:
            InvalidInput: an output was asked for that is not there.
        """
        from modelserver.protocols import v2_grpc

        wanted = self.requested_outputs
        response = self.value(wanted)
        outputs = {output.name: output for output in self.outputs}
        chosen = [outputs[each.name] for each in wanted] if wanted else self.outputs
        return v2_grpc.response_message(response._replace(outputs=_arrays_raw(chosen, response.outputs)))

    def value(
        self,
        wanted: Sequence[RequestedOutput] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Response:
        """The answer to be written over REST.

        Args:
            wanted: the outputs, in their order; none: all.
            parameters: of the request.

        Raises:
            InvalidInput: an output is wanted that is not there.
            InferenceError: an output's data do not fit its datatype and shape.
        """
        is_binary = bool((parameters or NO_PARAMETERS).get("binary_data_output", self.use_binary_outputs))
        chosen: Iterable[tuple[InferOutput, bool]]
        if wanted:
            outputs = {output.name: output for output in self.outputs}
            chosen = [
                (self._taken(each.name, outputs), is_binary if each.binary_data is None else each.binary_data)
                for each in wanted
            ]
        else:
            chosen = [(output, is_binary) for output in self.outputs]
        return Response(
            self.model_name,
            [_sent(output)._replace(is_binary=binary) for output, binary in chosen],
            self.model_version or "",
            self.id or "",
            self.parameters or NO_PARAMETERS,
        )

    def _taken(self, name: str, outputs: dict[str, InferOutput]) -> InferOutput:
        """The output of that name, which is then not there any more: a small request must not get the same
        large output a thousand times."""
        output = outputs.pop(name, None)
        if output is None:
            is_again = self.get_output_by_name(name) is not None
            again = " (it is wanted twice)" if is_again else ""
            raise InvalidInput(
                f"Unexpected inference output '{name[:80]}' for model '{self.model_name}'{again}"
            )
        return output

    def get_output_by_name(self, name: str) -> InferOutput | None:
        """The output of that name, or ``None``."""
        return next((tensor for tensor in self.outputs if tensor.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "id": self.id,
            "model_name": self.model_name,
            "model_version": self.model_version,
            "outputs": [tensor.to_dict() for tensor in self.outputs],
            "parameters": self.parameters,
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InferResponse) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"InferResponse(model_name={self.model_name!r}, id={self.id!r}, outputs={self.outputs})"


def generate_uuid() -> str:
    """A new id for a request or an answer."""
    return str(uuid.uuid4())


def _sent(output: InferOutput) -> Tensor:
    try:
        return output.value()
    except (InvalidInput, ValueError) as error:  # the model's mistake, not the client's
        raise InferenceError(f"the model's answer cannot be sent: {error}") from error


def _arrays_raw(tensors: Sequence[InferTensor], values: Sequence[Tensor]) -> list[Tensor]:
    """Tensors to be written to gRPC, raw where they are arrays."""
    import numpy as np

    return [
        value._replace(is_binary=value.is_binary or isinstance(tensor.data, np.ndarray))
        for tensor, value in zip(tensors, values, strict=True)
    ]


def _rest(
    parts: list[bytes | memoryview], json_length: int | None
) -> tuple[bytes | dict[str, Any], int | None]:
    import orjson

    body = b"".join(parts)
    return (orjson.loads(body), None) if json_length is None else (body, json_length)

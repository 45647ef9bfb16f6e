"""The fetched arrays to what the answer holds, by TensorFlow Serving's rules.

Rules of the room: arrays in, JSON-able values out; no TensorFlow. Numbers stay ``ndarray`` (or numpy
scalars), so that the encoder can write float32 in its shortest form: ``0.1``, not ``0.10000000149011612``.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from modelserver import InvalidInput
from tfserver.signature import WRITABLE, Signature, TensorSpec, tensorflow_name

_BYTES_SUFFIX = "_bytes"
_log = logging.getLogger("modelserver.model")


class AnswerForm:
    """How the outputs of one signature are written. One per signature and model.

    A string output whose name ends in ``_bytes`` becomes ``{"b64": ...}`` per element, any other text. Bytes
    that are not UTF-8 are sent as they are, as TensorFlow Serving does; that is no JSON, so the log says so
    once per output.
    """

    def __init__(self, signature: Signature) -> None:
        self._outputs = signature.outputs
        self._reported: set[str] = set()

    def rows(self, values: Sequence[Any]) -> dict[str, Any]:
        """``{"predictions": [...]}``, one item per row: a value, or an object when there are several outputs.

        Raises:
            InvalidInput: an output has no rows, or not as many as the others, or a dtype without JSON form.
        """
        self._check_rows(values)
        columns = [self._written(spec, value) for spec, value in zip(self._outputs, values, strict=True)]
        if len(columns) == 1:
            return {"predictions": columns[0]}
        names = [spec.name for spec in self._outputs]
        return {"predictions": [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]}

    def columns(self, values: Sequence[Any]) -> dict[str, Any]:
        """``{"outputs": value}``, or ``{"outputs": {name: value}}`` when there are several outputs.

        Raises:
            InvalidInput: an output has a dtype without JSON form.
        """
        written = [self._written(spec, value) for spec, value in zip(self._outputs, values, strict=True)]
        if len(written) == 1:
            return {"outputs": written[0]}
        return {"outputs": {spec.name: value for spec, value in zip(self._outputs, written, strict=True)}}

    def _check_rows(self, values: Sequence[Any]) -> None:
        rows: int | None = None
        for spec, value in zip(self._outputs, values, strict=True):
            shape = np.shape(value)
            if not shape:
                raise InvalidInput(
                    f"Tensor name: {spec.name} has no shape information "
                    '(it is one value, not one per row: ask in column form, {"inputs": ...})'
                )
            if rows is not None and shape[0] != rows:
                raise InvalidInput(
                    f"Tensor name: {spec.name} has inconsistent batch size: {shape[0]} expecting: {rows} "
                    '(ask in column form, {"inputs": ...})'
                )
            rows = shape[0]

    def _written(self, spec: TensorSpec, value: Any) -> Any:
        if isinstance(value, bytes):  # a string of rank 0
            return self._text_writer(spec)(value)
        if value.dtype not in WRITABLE and value.size:
            raise InvalidInput(
                f"Failed to write JSON value for tensor type: {tensorflow_name(value.dtype)} "
                f"(output {spec.name})"
            )
        if value.dtype != np.object_:
            return value
        write = self._text_writer(spec)
        if value.ndim == 1:
            return [write(element) for element in value.tolist()]
        texts = np.empty(value.shape, dtype=object)
        texts.reshape(-1)[:] = [write(element) for element in value.reshape(-1).tolist()]
        return texts.tolist()

    def _text_writer(self, spec: TensorSpec) -> Callable[[bytes], Any]:
        if spec.name.endswith(_BYTES_SUFFIX):
            return _as_base64

        def decode(element: bytes) -> str:
            try:
                return element.decode()
            except UnicodeDecodeError:
                if spec.name not in self._reported:
                    self._reported.add(spec.name)
                    _log.warning(
                        "output %r holds bytes that are not UTF-8; they are sent as they are, which is no "
                        "JSON. Export it under a name that ends in %s to send base64",
                        spec.name,
                        _BYTES_SUFFIX,
                    )
                return text_of(element)

        return decode


def text_of(element: bytes) -> str:
    """A string as text; bytes that are not UTF-8 as ``surrogateescape`` has them, which the encoder knows."""
    return element.decode("utf-8", "surrogateescape")


def _as_base64(element: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(element).decode()}

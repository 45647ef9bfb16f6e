"""Protocol buffer messages from a table: no compiler, no generated code, nothing shared with another package.

Every class made here lives in one private ``DescriptorPool``. TensorFlow and its Serving client register the
same full names in the default pool of the process; a second registration there would be an error.

Rules of the room: what every protocol buffer format needs, and no format. This module is the one door to
``google.protobuf``: importing it raises ``StartError`` where that is not installed.

A table has one entry for each message, with the fields as ``name: (number, type)``::

    {
        "ModelSpec": {
            "name": (1, "string"),
            "version_choice": {"version": (2, "google.protobuf.Int64Value"), "version_label": (4, "string")},
        },
        "PredictRequest": {"inputs": (2, "map<string, TensorProto>"), "filter": (3, "repeated string")},
        "PredictRequest.RequestOptions": {"client_id": (1, "optional bytes")},
    }

A dictionary in the place of a field is a oneof; a name with a point is a nested message. A type is looked for
in the message that uses it, then outwards, as ``protoc`` does. Syntax is proto3.

Services are described for those who ask by reflection; what answers their calls is gRPC's business::

    {"PredictionService": {"Predict": ("PredictRequest", "stream PredictResponse")}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelserver.errors import StartError

try:
    from google.protobuf import (
        any_pb2,
        descriptor_pb2,
        descriptor_pool,
        json_format,
        message_factory,
        text_format,
        wrappers_pb2,
    )
    from google.protobuf.message import DecodeError
except ModuleNotFoundError as error:
    raise StartError(
        "Protocol buffers are not installed, which gRPC, TensorFlow Serving's configuration files and its "
        'warm-up records are made of: pip install "modelserver[grpc]"'
    ) from error

Field = tuple[int, str]
Fields = Mapping[str, "Field | Mapping[str, Field]"]
Values = Mapping[str, int]
Methods = Mapping[str, tuple[str, str]]

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name.removeprefix("TYPE_").lower(): number
    for name, number in _FIELD.Type.items()
    if name not in ("TYPE_GROUP", "TYPE_MESSAGE", "TYPE_ENUM")
}
_WELL_KNOWN = (any_pb2, wrappers_pb2)

_pool = descriptor_pool.DescriptorPool()
for _module in _WELL_KNOWN:
    _pool.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)
_messages = {  # the file of each, by its full name
    f"google.protobuf.{name}": each.DESCRIPTOR.name
    for each in _WELL_KNOWN
    for name in each.DESCRIPTOR.message_types_by_name
}
_enums: dict[str, str] = {}
_services: dict[str, tuple[str, ...]] = {}


class WireError(ValueError):
    """Bytes or text are not the message that they should be. The text says why."""


def define(
    package: str,
    messages: Mapping[str, Fields],
    enums: Mapping[str, Values] | None = None,
    services: Mapping[str, Methods] | None = None,
) -> dict[str, Any]:
    """Make the classes of a package. A package can be defined once.

    Args:
        package: what their full names begin with.
        messages: as described at the top; they may use each other and all that was defined before.
        enums: ``{name: {value name: number}}``; a name with a point is nested in a message.
        services: ``{name: {method: (request, answer)}}``; ``stream`` stands before a message of which there
            may be many.

    Returns:
        The classes by name, without the package.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"modelserver/{package}.proto", package=package, syntax="proto3"
    )
    _messages.update((f"{package}.{name}", file.name) for name in _with_parents(messages))
    _enums.update((f"{package}.{name}", file.name) for name in enums or ())
    made: dict[str, Any] = {}
    for name in _with_parents(messages):
        parent, _, own = name.rpartition(".")
        made[name] = (made[parent].nested_type if parent else file.message_type).add(name=own)
        _add_fields(made[name], f"{package}.{name}", messages.get(name, {}))
    for name, values in (enums or {}).items():
        parent, _, own = name.rpartition(".")
        enum = (made[parent] if parent else file).enum_type.add(name=own)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, methods in (services or {}).items():
        service = file.service.add(name=name)
        _services[f"{package}.{name}"] = tuple(methods)
        for method, kinds in methods.items():
            _add_method(service, package, method, *kinds)
    file.dependency.extend(_files_of_types(file))
    _pool.AddSerializedFile(file.SerializeToString())
    return {name: message_class(f"{package}.{name}") for name in messages}


def file_by_name(name: str) -> list[bytes]:
    """The description of a file, and then of all that it builds on, as ``FileDescriptorProto``.

    Raises:
        KeyError: there is no such file.
    """
    try:
        return _serialized(_pool.FindFileByName(name))
    except KeyError:
        raise KeyError(name) from None


def file_of_symbol(name: str) -> list[bytes]:
    """As ``file_by_name``, for the file with a service, method, message, field or enum of that full name.

    Raises:
        KeyError: there is none.
    """
    service, _, method = name.rpartition(".")
    known = service if method in _services.get(service, ()) else name  # the pool knows no methods
    try:
        return _serialized(_pool.FindFileContainingSymbol(known))
    except KeyError:
        raise KeyError(name) from None


def is_message(name: str) -> bool:
    """Whether there is a message of that full name."""
    return name in _messages


def methods_of(service: str) -> Sequence[str]:
    """The names of a service's methods.

    Raises:
        KeyError: no service of that full name was defined.
    """
    return _services[service]


def message_class(full_name: str) -> Any:
    """The class of a message that was defined, or of one of ``google.protobuf`` (``Any``, wrappers)."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(full_name))


def parse(kind: Any, data: bytes) -> Any:
    """The message in ``data``.

    Args:
        kind: the class.
        data: as it came over the wire or out of a file.

    Raises:
        WireError: it is not such a message.
    """
    try:
        return kind.FromString(data)
    except (DecodeError, RecursionError) as error:
        raise WireError(f"not a {kind.DESCRIPTOR.full_name}: {error}") from error


def parse_text(kind: Any, text: str) -> Any:
    """The message that ``text``, in the text format (``.pbtxt``, ``.config``), describes.

    Raises:
        WireError: it is none; the text has line and column.
    """
    try:
        return text_format.Parse(text, kind(), descriptor_pool=_pool)
    except (text_format.ParseError, RecursionError) as error:
        raise WireError(str(error)) from error


def to_text(message: Any) -> str:
    """The message in the text format; ``parse_text`` reads it."""
    text: str = text_format.MessageToString(message, descriptor_pool=_pool)
    return text


def from_dict(kind: Any, value: Mapping[str, Any]) -> Any:
    """The message of its JSON form. Fields that the class does not have are left out.

    Raises:
        WireError: a value is not of its field's type.
    """
    try:
        return json_format.ParseDict(value, kind(), ignore_unknown_fields=True, descriptor_pool=_pool)
    except json_format.ParseError as error:
        raise WireError(str(error)) from error


def _serialized(file: Any) -> list[bytes]:
    """A file first, then all that it builds on, each once."""
    found = {file.name: file}
    waiting = [file]
    while waiting:
        for each in waiting.pop().dependencies:
            if each.name not in found:
                found[each.name] = each
                waiting.append(each)
    return [each.serialized_pb for each in found.values()]


def _files_of_types(file: Any) -> list[str]:
    """The other files whose messages and enums this one uses."""
    used = {
        name
        for service in file.service
        for each in service.method
        for name in (each.input_type, each.output_type)
    }
    waiting = list(file.message_type)
    while waiting:
        message = waiting.pop()
        waiting.extend(message.nested_type)
        used.update(field.type_name for field in message.field if field.type_name)
    files = {_messages.get(name[1:]) or _enums.get(name[1:]) for name in used}
    return sorted(
        found for found in files - {file.name} if found
    )  # entries of maps have no name of their own


def _add_method(service: Any, scope: str, name: str, request: str, answer: str) -> None:
    method = service.method.add(name=name)
    takes, _, kind = request.rpartition(" ")
    gives, _, answered = answer.rpartition(" ")
    method.input_type, method.output_type = f".{_resolved(kind, scope)}", f".{_resolved(answered, scope)}"
    method.client_streaming, method.server_streaming = takes == "stream", gives == "stream"


def _with_parents(names: Mapping[str, Any]) -> Iterator[str]:
    """Each name after what it is nested in, which need not be listed."""
    seen: set[str] = set()
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            prefix = ".".join(parts[:end])
            if prefix not in seen:
                seen.add(prefix)
                yield prefix


def _add_fields(message: Any, scope: str, fields: Fields) -> None:
    optional = []
    for name, spec in fields.items():
        if isinstance(spec, Mapping):
            for member, (number, kind) in spec.items():
                field = _add_field(message, scope, member, number, kind)
                field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=name)
            continue
        field = _add_field(message, scope, name, *spec)
        if field.proto3_optional:
            optional.append(field)
    for field in optional:  # their oneofs, which only descriptors know, come last
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{field.name}")


def _add_field(message: Any, scope: str, name: str, number: int, kind: str) -> Any:
    field = message.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
    if kind.startswith("map<"):
        key, _, value = kind[4:-1].partition(", ")
        entry = message.nested_type.add(name=name.title().replace("_", "") + "Entry")
        entry.options.map_entry = True
        _add_field(entry, scope, "key", 1, key)
        _add_field(entry, scope, "value", 2, value)
        field.label, field.type, field.type_name = (
            _FIELD.LABEL_REPEATED,
            _FIELD.TYPE_MESSAGE,
            f".{scope}.{entry.name}",
        )
        return field
    label, _, bare = kind.rpartition(" ")
    if label == "repeated":
        field.label = _FIELD.LABEL_REPEATED
    elif label == "optional":
        field.proto3_optional = True
    if bare in _SCALARS:
        field.type = _SCALARS[bare]
    else:
        full_name = _resolved(bare, scope)
        field.type = _FIELD.TYPE_ENUM if full_name in _enums else _FIELD.TYPE_MESSAGE
        field.type_name = f".{full_name}"
    return field


def _resolved(name: str, scope: str) -> str:
    while True:
        candidate = f"{scope}.{name}" if scope else name
        if candidate in _messages or candidate in _enums:
            return candidate
        if not scope:
            raise KeyError(f"no message or enum {name}")
        scope = scope.rpartition(".")[0]

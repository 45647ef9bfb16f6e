"""A signature as TensorFlow Serving's ``/metadata`` shows it: its protocol buffer, in JSON.

Rules of the room: a ``SignatureDef`` in, plain values out. The only module that imports protobuf itself.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format


def definition_as_json(definition: Any) -> dict[str, Any]:
    """The ``SignatureDef`` as a dictionary: snake_case names, and values that are not set as their defaults.

    A shape that was not recorded has no ``tensor_shape``; 64-bit numbers are strings, as protobuf has it.
    """
    options = {"preserving_proto_field_name": True}
    try:
        shown = json_format.MessageToDict(definition, always_print_fields_with_no_presence=True, **options)
    except TypeError:  # protobuf 4, which TensorFlow 2.16 to 2.18 bring
        shown = json_format.MessageToDict(definition, including_default_value_fields=True, **options)
    return dict(shown)

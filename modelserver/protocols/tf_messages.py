"""TensorFlow's own messages, as far as a server of models meets them: tensors, examples, signatures.

Rules of the room: names, numbers and types as they are in the ``.proto`` files of TensorFlow 2.21;
``tests/unit/protocols/test_tfs_messages.py`` compares every field with the real ones.
"""

from __future__ import annotations

from modelserver.protocols.protobuf import define

_DATA_TYPES = (
    *(
        "INVALID",
        "FLOAT",
        "DOUBLE",
        "INT32",
        "UINT8",
        "INT16",
        "INT8",
        "STRING",
        "COMPLEX64",
        "INT64",
        "BOOL",
    ),
    *("QINT8", "QUINT8", "QINT32", "BFLOAT16", "QINT16", "QUINT16", "UINT16", "COMPLEX128", "HALF"),
    *("RESOURCE", "VARIANT", "UINT32", "UINT64", "FLOAT8_E5M2", "FLOAT8_E4M3FN", "FLOAT8_E4M3FNUZ"),
    *("FLOAT8_E4M3B11FNUZ", "FLOAT8_E5M2FNUZ", "INT4", "UINT4", "INT2", "UINT2", "FLOAT4_E2M1FN"),
)

DATA_TYPES = {f"DT_{name}": number for number, name in enumerate(_DATA_TYPES)} | {
    f"DT_{name}_REF": number + 100 for number, name in enumerate(_DATA_TYPES) if number
}
"""Numbers of ``tensorflow.DataType`` by name."""

ERROR_CODES = {
    "OK": 0,
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
"""Numbers of ``tensorflow.error.Code`` by name, which are gRPC's status codes."""

define("tensorflow.error", {}, {"Code": ERROR_CODES})

_tensorflow = define(
    "tensorflow",
    {
        "TensorShapeProto": {"dim": (2, "repeated Dim"), "unknown_rank": (3, "bool")},
        "TensorShapeProto.Dim": {"size": (1, "int64"), "name": (2, "string")},
        "TensorProto": {
            "dtype": (1, "DataType"),
            "tensor_shape": (2, "TensorShapeProto"),
            "version_number": (3, "int32"),
            "tensor_content": (4, "bytes"),
            "float_val": (5, "repeated float"),
            "double_val": (6, "repeated double"),
            "int_val": (7, "repeated int32"),
            "string_val": (8, "repeated bytes"),
            "scomplex_val": (9, "repeated float"),
            "int64_val": (10, "repeated int64"),
            "bool_val": (11, "repeated bool"),
            "dcomplex_val": (12, "repeated double"),
            "half_val": (13, "repeated int32"),
            "resource_handle_val": (14, "repeated ResourceHandleProto"),
            "variant_val": (15, "repeated VariantTensorDataProto"),
            "uint32_val": (16, "repeated uint32"),
            "uint64_val": (17, "repeated uint64"),
            "float8_val": (18, "bytes"),
        },
        "VariantTensorDataProto": {
            "type_name": (1, "string"),
            "metadata": (2, "bytes"),
            "tensors": (3, "repeated TensorProto"),
        },
        "ResourceHandleProto": {
            "device": (1, "string"),
            "container": (2, "string"),
            "name": (3, "string"),
            "hash_code": (4, "uint64"),
            "maybe_type_name": (5, "string"),
            "dtypes_and_shapes": (6, "repeated DtypeAndShape"),
        },
        "ResourceHandleProto.DtypeAndShape": {"dtype": (1, "DataType"), "shape": (2, "TensorShapeProto")},
        # What an Example is made of.
        "BytesList": {"value": (1, "repeated bytes")},
        "FloatList": {"value": (1, "repeated float")},
        "Int64List": {"value": (1, "repeated int64")},
        "Feature": {
            "kind": {
                "bytes_list": (1, "BytesList"),
                "float_list": (2, "FloatList"),
                "int64_list": (3, "Int64List"),
            }
        },
        "Features": {"feature": (1, "map<string, Feature>")},
        "Example": {"features": (1, "Features")},
        # What a signature is made of.
        "SignatureDef": {
            "inputs": (1, "map<string, TensorInfo>"),
            "outputs": (2, "map<string, TensorInfo>"),
            "method_name": (3, "string"),
            "defaults": (4, "map<string, TensorProto>"),
        },
        "TensorInfo": {
            "encoding": {
                "name": (1, "string"),
                "coo_sparse": (4, "CooSparse"),
                "composite_tensor": (5, "CompositeTensor"),
            },
            "dtype": (2, "DataType"),
            "tensor_shape": (3, "TensorShapeProto"),
        },
        "TensorInfo.CooSparse": {
            "values_tensor_name": (1, "string"),
            "indices_tensor_name": (2, "string"),
            "dense_shape_tensor_name": (3, "string"),
        },
        "TensorInfo.CompositeTensor": {
            "type_spec": (1, "TypeSpecProto"),
            "components": (2, "repeated TensorInfo"),
        },
        "TypeSpecProto": {
            "type_spec_class": (1, "TypeSpecClass"),
            "type_state": (2, "StructuredValue"),
            "type_spec_class_name": (3, "string"),
            "num_flat_components": (4, "int32"),
        },
        "StructuredValue": {
            "kind": {
                "none_value": (1, "NoneValue"),
                "float64_value": (11, "double"),
                "int64_value": (12, "sint64"),
                "string_value": (13, "string"),
                "bool_value": (14, "bool"),
                "tensor_shape_value": (31, "TensorShapeProto"),
                "tensor_dtype_value": (32, "DataType"),
                "tensor_spec_value": (33, "TensorSpecProto"),
                "type_spec_value": (34, "TypeSpecProto"),
                "bounded_tensor_spec_value": (35, "BoundedTensorSpecProto"),
                "list_value": (51, "ListValue"),
                "tuple_value": (52, "TupleValue"),
                "dict_value": (53, "DictValue"),
                "named_tuple_value": (54, "NamedTupleValue"),
                "tensor_value": (55, "TensorProto"),
                "numpy_value": (56, "TensorProto"),
            }
        },
        "NoneValue": {},
        "ListValue": {"values": (1, "repeated StructuredValue")},
        "TupleValue": {"values": (1, "repeated StructuredValue")},
        "DictValue": {"fields": (1, "map<string, StructuredValue>")},
        "PairValue": {"key": (1, "string"), "value": (2, "StructuredValue")},
        "NamedTupleValue": {"name": (1, "string"), "values": (2, "repeated PairValue")},
        "TensorSpecProto": {
            "name": (1, "string"),
            "shape": (2, "TensorShapeProto"),
            "dtype": (3, "DataType"),
        },
        "BoundedTensorSpecProto": {
            "name": (1, "string"),
            "shape": (2, "TensorShapeProto"),
            "dtype": (3, "DataType"),
            "minimum": (4, "TensorProto"),
            "maximum": (5, "TensorProto"),
        },
    },
    {
        "DataType": DATA_TYPES,
        "TypeSpecProto.TypeSpecClass": {
            "UNKNOWN": 0,
            "SPARSE_TENSOR_SPEC": 1,
            "INDEXED_SLICES_SPEC": 2,
            "RAGGED_TENSOR_SPEC": 3,
            "TENSOR_ARRAY_SPEC": 4,
            "DATA_DATASET_SPEC": 5,
            "DATA_ITERATOR_SPEC": 6,
            "OPTIONAL_SPEC": 7,
            "PER_REPLICA_SPEC": 8,
            "VARIABLE_SPEC": 9,
            "ROW_PARTITION_SPEC": 10,
            "REGISTERED_TYPE_SPEC": 12,
            "EXTENSION_TYPE_SPEC": 13,
        },
    },
)

TensorProto = _tensorflow["TensorProto"]
TensorShapeProto = _tensorflow["TensorShapeProto"]
Example = _tensorflow["Example"]
Features = _tensorflow["Features"]
Feature = _tensorflow["Feature"]
SignatureDef = _tensorflow["SignatureDef"]
TensorInfo = _tensorflow["TensorInfo"]

"""Our messages against those of the real client, tensorflow-serving-api, in one process with them."""

import json

import pytest
from harness import run

from modelserver.protocols import protobuf, tfs_messages

COMPARE = """
import importlib, json, pkgutil
import tensorflow_serving
for module in pkgutil.walk_packages(tensorflow_serving.__path__, "tensorflow_serving."):
    if module.name.endswith("_pb2"):
        importlib.import_module(module.name)
from google.protobuf import descriptor_pool
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import prediction_log_pb2
from modelserver.protocols import tf_messages, tfs_messages as ours

theirs = descriptor_pool.Default()

def kind(field):
    other = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return [
        field.number, field.type, field.is_repeated, field.is_packed, field.has_presence,
        other and other.full_name, oneof and oneof.name,
    ]

def enum(value):
    return {each.name: each.number for each in value.values if "DO_NOT_USE" not in each.name}

def described(message):
    fields = {field.name: kind(field) for field in message.fields}
    enums = {each.enum_type.full_name: enum(each.enum_type) for each in message.fields if each.enum_type}
    return [fields, enums, message.GetOptions().map_entry]

found, compared, alone = [], [], []
def walk(message):
    try:
        real = theirs.FindMessageTypeByName(message.full_name)
    except KeyError:
        alone.append(message.full_name)
        return
    compared.append(message.full_name)
    a, b = described(message), described(real)
    if a != b:
        found.append([message.full_name, a, b])
    for each in message.nested_types:
        walk(each)
for message in {**tf_messages._tensorflow, **ours._serving}.values():
    walk(message.DESCRIPTOR)

# And over the wire: bytes of theirs are ours, and the other way round.
log = prediction_log_pb2.PredictionLog()
log.predict_log.request.model_spec.name = "m"
log.predict_log.request.model_spec.version.value = 3
log.predict_log.request.inputs["x"].float_val.extend([1.5, 2.5])
data = log.SerializeToString(deterministic=True)
same = ours.PredictionLog.FromString(data).SerializeToString(deterministic=True) == data
print(json.dumps({"found": found, "compared": compared, "alone": alone, "same": same}))
"""


@pytest.fixture(scope="module")
def compared():
    done = run(["-c", COMPARE])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_field_is_that_of_the_real_client(compared):
    """Name, number, type, label, packing, oneof, and the values of enums."""
    assert [name for name, *_ in compared["found"]] == ["tensorflow.serving.SessionRunLog"], compared["found"]
    assert len(set(compared["compared"])) > 85


def test_what_the_real_client_does_not_have_is_known(compared):
    names = {"BatchingParameters", "ModelWarmupOptions", "MonitoringConfig", "PrometheusConfig"}
    assert set(compared["alone"]) == {f"tensorflow.serving.{name}" for name in names}


def test_bytes_of_the_real_client_are_read_and_written_alike(compared):
    assert compared["same"]


def test_a_configuration_is_read_and_written_as_text():
    text = 'model_config_list { config { name: "a" base_path: "/m" version_labels { key: "x" value: 2 } } }'
    config = protobuf.parse_text(tfs_messages.ModelServerConfig, text)
    [model] = config.model_config_list.config
    assert (model.name, dict(model.version_labels)) == ("a", {"x": 2})
    assert protobuf.parse_text(tfs_messages.ModelServerConfig, protobuf.to_text(config)) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model_config_list {\n nam: 2}", '2:2 : .*no field named "nam"'),
        ('model_config_list { config { name: "a" }', "1:40 : .*Expected"),
        ("max", "1:1"),
    ],
)
def test_text_that_is_no_configuration_says_where(text, words):
    with pytest.raises(protobuf.WireError, match=words):
        protobuf.parse_text(tfs_messages.ModelServerConfig, text)


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x05abc", b"\x12\x04\x0a\xff\xff\xff"])
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(protobuf.WireError, match=r"not a tensorflow.serving.PredictRequest"):
        protobuf.parse(tfs_messages.PredictRequest, data)


def test_the_json_form_leaves_out_what_is_not_known():
    value = {"name": "m", "version": "7", "other": [1]}
    assert protobuf.from_dict(tfs_messages.ModelSpec, value).version.value == 7
    with pytest.raises(protobuf.WireError, match="name"):
        protobuf.from_dict(tfs_messages.ModelSpec, {"name": 3})


def test_a_type_that_is_not_there_is_an_error():
    with pytest.raises(KeyError, match="no message or enum Nothing"):
        protobuf.define("a.test.of.types", {"One": {"field": (1, "Nothing")}})

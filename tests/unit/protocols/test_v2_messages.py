"""Our messages against those of the real clients, kserve and tritonclient, each in a process of its own.

What is compared is what ``protoc`` made: the descriptions of their files, as bytes.
"""

import subprocess

import pytest
from google.protobuf import descriptor_pb2
from harness import environment

from modelserver.protocols import protobuf, v2_messages

FILES = {
    "kserve": "kserve.protocol.grpc.grpc_predict_v2_pb2",
    "triton": "tritonclient.grpc.service_pb2",
}
# Of KServe's module only: its package would import FastAPI, Kubernetes and pandas.
DESCRIBE = """
import importlib, importlib.util, sys
name = sys.argv[1]
package, _, module = name.rpartition(".")
if package.startswith("kserve"):
    root = importlib.util.find_spec("kserve").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location(module, f"{root}/protocol/grpc/{module}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
else:
    loaded = importlib.import_module(name)
sys.stdout.buffer.write(loaded.DESCRIPTOR.serialized_pb)
"""
# Where the two are not alike, ours has the fields of both: message.field -> its number here and there.
_LOAD = {
    f"RepositoryModel{verb}Request.{field}": numbers
    for verb in ("Load", "Unload")
    for field, numbers in (("repository_name", (1, None)), ("model_name", (2, 1)), ("parameters", (3, None)))
}
DIFFERENCES = {
    "kserve": {
        "InferParameter.double_param": (4, None),
        "InferParameter.uint64_param": (5, None),
        **_LOAD,
    },
    "triton": {
        "RepositoryModelLoadResponse.model_name": (1, None),
        "RepositoryModelLoadResponse.isLoaded": (2, None),
        "RepositoryModelUnloadResponse.model_name": (1, None),
        "RepositoryModelUnloadResponse.isUnloaded": (2, None),
    },
}
METHODS_OF_OURS = {"kserve": {"RepositoryIndex"}, "triton": set()}


def tables(data):
    """Fields by ``message.field`` with number, label, type and oneof; messages; methods; the service."""
    fields, messages = {}, set()

    def walk(message, scope):
        name = f"{scope}{message.name}"
        messages.add(name)
        for nested in message.nested_type:
            walk(nested, f"{name}.")
        for field in message.field:
            oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
            details = field.label, field.type, field.type_name, oneof, message.options.map_entry
            fields[f"{name}.{field.name}"] = field.number, details

    file = descriptor_pb2.FileDescriptorProto.FromString(data)
    for message in file.message_type:
        walk(message, "")
    [service] = file.service
    methods = {
        each.name: (each.input_type, each.output_type, each.client_streaming, each.server_streaming)
        for each in service.method
    }
    return fields, messages, methods, f"{file.package}.{service.name}"


@pytest.fixture(scope="module")
def ours():
    return tables(protobuf.file_of_symbol("inference.GRPCInferenceService")[0])


@pytest.fixture(scope="module", params=FILES)
def theirs(request, clients_python):
    command = [clients_python, "-c", DESCRIBE, FILES[request.param]]
    done = subprocess.run(command, capture_output=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    return request.param, tables(done.stdout)


def test_every_field_is_that_of_the_real_client(ours, theirs):
    """Name, number, label, type, oneof, and whether it is a map's."""
    who, (fields, messages, _, _) = theirs
    mine = {name: field for name, field in ours[0].items() if name.rpartition(".")[0] in messages}
    shared = {name: field for name, field in fields.items() if name.rpartition(".")[0] in ours[1]}
    different = {
        name: tuple(side[name][0] if name in side else None for side in (mine, shared))
        for name in mine.keys() | shared.keys()
        if mine.get(name) != shared.get(name)
    }
    assert different == DIFFERENCES[who]
    assert len(shared) > 60


def test_every_method_is_that_of_the_real_client(ours, theirs):
    who, (_, _, methods, name) = theirs
    assert name == ours[3]
    assert ours[2].keys() - methods.keys() == METHODS_OF_OURS[who]
    assert {each: ours[2][each] for each in methods if each in ours[2]} == {
        each: kinds for each, kinds in methods.items() if each in ours[2]
    }


def test_a_name_is_found_in_the_requests_of_both_clients():
    """Of a model to be loaded: KServe's clients have it in field 1, Triton's in field 2."""
    request = v2_messages.RepositoryModelLoadRequest
    assert request.FromString(b"\x0a\x01m").repository_name == "m"
    assert request.FromString(b"\x12\x01m").model_name == "m"

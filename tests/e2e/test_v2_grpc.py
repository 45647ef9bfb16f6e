"""V2's gRPC service of real servers: what calls give, how they end, and the life of the server.

The client is our own messages on gRPC's channel; the real clients are in ``tests/clients``.
"""

import contextlib
import json
import re
import signal
import socket
import subprocess
import threading

import grpc
import numpy as np
import pytest
import v2_client
from harness import environment, serving, wait_until
from v2_client import Refused

from modelserver.protocols import v2_messages as v2

GRPC = re.compile(rb"grpc://[^ ,]*:(\d+)")
ROWS = np.float32([[1, 2, 3, 4], [5, 6, 7, 8]])
TOKEN = "an-admin-token"
ADMIN = [("authorization", f"Bearer {TOKEN}")]
LIMITS = ["--grpc_max_receive_message_length=1000000", "--grpc_max_send_message_length", "1200000"]


@contextlib.contextmanager
def grpc_serving(programs, folder, *arguments, **env):
    """The server of programs/v2_grpc.py, whose models look into the folder."""
    program = [programs / "v2_grpc.py", *arguments]
    with serving(program, folder / "log", env={"FOLDER": str(folder), **env}) as server:
        server.grpc_port = int(wait_until(lambda: GRPC.search(server.log.read_bytes()), what="gRPC")[1])
        server.folder = folder
        # A channel that is refused waits for up to 20 s before it tries again.
        wait_until(lambda: is_open(server.grpc_port), 120, "gRPC's port")
        yield server


def is_open(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def served(programs, tmp_path_factory):
    """Two workers with administrative calls and limits."""
    env = {"MODELSERVER_ADMIN_TOKEN": TOKEN}
    folder = tmp_path_factory.mktemp("v2_grpc")
    with grpc_serving(programs, folder, "--workers=2", "--enable_admin=true", *LIMITS, **env) as server:
        wait_until(lambda: "modelserver_workers_ready 2" in server.get("/metrics").body.decode(), 120)
        yield server


@pytest.fixture(scope="module")
def ask(served):
    with v2_client.connected(served.grpc_port) as client:
        yield client


@pytest.fixture(scope="module")
def locked(programs, tmp_path_factory, pairs):
    """One worker with TLS and a key, all of whose models are ready, and with little memory for messages."""
    env = {"MODELSERVER_API_KEY": "sesame", "ONLY_READY": "1"}
    flags = [f"--ssl_certfile={pairs[0].certfile}", f"--ssl_keyfile={pairs[0].keyfile}"]
    flags += ["--max_in_flight_bytes=1000000", "--max_buffer_size=1000000"]
    with grpc_serving(programs, tmp_path_factory.mktemp("locked"), *flags, **env) as server:
        server.certificate = pairs[0].certfile.read_bytes()
        yield server


@pytest.fixture(scope="module")
def tell(locked):
    with v2_client.connected(locked.grpc_port, locked.certificate) as client:
        wait_until(lambda: is_ready(client), 120, "models")
        yield client


def is_ready(client):
    return client("ServerReady").ready


# -- what is asked beside inference


def test_the_server_says_how_it_is(ask):
    assert ask("ServerLive").live
    assert not ask("ServerReady").ready  # a model is not
    metadata = ask("ServerMetadata")
    assert metadata.name == "modelserver"
    assert "model_repository_extension" in metadata.extensions


@pytest.mark.parametrize(
    ("name", "version", "ready"), [("echo", "", True), ("echo", "1", True), ("not-ready", "", False)]
)
def test_a_model_says_whether_it_is_ready(ask, name, version, ready):
    assert ask("ModelReady", v2.ModelReadyRequest(name=name, version=version)).ready is ready


def test_a_model_says_what_it_takes(ask):
    metadata = ask("ModelMetadata", v2.ModelMetadataRequest(name="rows"))
    assert (metadata.name, list(metadata.versions)) == ("rows", ["1"])
    told = [(each.name, each.datatype, list(each.shape)) for each in (*metadata.inputs, *metadata.outputs)]
    assert told == [("rows", "FP32", [-1, 4]), ("sums", "FP32", [-1])]


# -- inference


def test_raw_in_raw_out(ask):
    request = v2_client.request("echo", {"a": ROWS, "b": ROWS[0]}, id="mine")
    request.parameters["flag"].bool_param = True
    answer = ask("ModelInfer", request)
    assert (answer.id, answer.model_name, answer.model_version) == ("mine", "echo", "1")
    assert [(each.name, each.datatype, list(each.shape)) for each in answer.outputs] == [
        ("a", "FP32", [2, 4]),
        ("b", "FP32", [4]),
    ]
    assert list(answer.raw_output_contents) == [ROWS.tobytes(), ROWS[0].tobytes()]
    assert not answer.outputs[0].HasField("contents")
    assert v2_client.parameters(answer)["flag"] is True


def test_typed_in_typed_out(ask):
    request = v2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="n", datatype="INT8", shape=[2], contents={"int_contents": [-3, 4]})
    request.inputs.add(name="t", datatype="BYTES", shape=[1], contents={"bytes_contents": [b"\xff"]})
    answer = ask("ModelInfer", request)
    assert not answer.raw_output_contents
    assert list(answer.outputs[0].contents.int_contents) == [-3, 4]
    assert list(answer.outputs[1].contents.bytes_contents) == [b"\xff"]


def test_half_precision_goes_raw_to_whoever_sent_lists(ask):
    request = v2.ModelInferRequest(model_name="half")
    request.inputs.add(name="n", datatype="BOOL", shape=[1], contents={"bool_contents": [True]})
    answer = ask("ModelInfer", request)
    assert list(answer.raw_output_contents) == [np.float16([0.5, 1]).tobytes()]


def test_a_model_of_rows_gets_rows(ask):
    answer = ask("ModelInfer", v2_client.request("rows", {"rows": ROWS}))
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [10, 26]
    assert [each.name for each in answer.outputs] == ["sums"]


def test_a_message_that_the_model_made_goes_as_it_is(ask):
    answer = ask.infer("message", ROWS, ROWS)
    assert (answer.id, list(answer.outputs[0].contents.int_contents)) == ("own id", [2])


def test_the_outputs_that_are_wanted_come_in_their_order(ask):
    tensors = {"a": ROWS, "b": ROWS[0]}
    for wanted in (["b", "a"], ["b"]):
        answer = ask("ModelInfer", v2_client.request("echo", tensors, wanted))
        assert [each.name for each in answer.outputs] == wanted
        assert len(answer.raw_output_contents) == len(wanted)


def test_metadata_are_headers_and_a_call_has_an_id(ask):
    answer = ask.infer("echo", ROWS, metadata=[("x-tenant", "blue"), ("x-request-id", "mine")])
    told = v2_client.parameters(answer)
    assert (told["tenant"], told["id"], answer.id) == ("blue", "mine", "mine")
    assert ask.trailing["x-request-id"] == "mine"
    answer = ask.infer("echo", ROWS)
    assert v2_client.parameters(answer)["id"] == answer.id == ask.trailing["x-request-id"] != ""


@pytest.mark.parametrize("metadata", [(), [("x-request-id", "mine")]])
def test_a_requests_own_id_is_its_answers(ask, metadata):
    answer = ask("ModelInfer", v2_client.request("echo", {"a": ROWS}, id="r1"), metadata=metadata)
    assert answer.id == "r1"


def test_calls_are_counted_and_logged(ask, served):
    ask.infer("echo", ROWS)
    with pytest.raises(Refused):
        ask("ModelInfer", v2.ModelInferRequest(model_name="rows", inputs=[{"name": "x", "datatype": "FP31"}]))
    page = served.get("/metrics").body.decode()
    assert 'modelserver_requests_total{model="echo",verb="predict",status="200"}' in page
    assert 'modelserver_requests_total{model="rows",verb="predict",status="400"}' in page
    line = r"127\.0\.0\.1 POST /inference\.GRPCInferenceService/ModelInfer 200 "
    wait_until(lambda: re.search(line, served.text()), what="the line")


# -- how calls end


def infer_request(name, **tensor):
    return v2.ModelInferRequest(model_name=name, inputs=[{"name": "x", "datatype": "FP32", **tensor}])


@pytest.mark.parametrize(
    ("request_message", "code", "words"),
    [
        (infer_request("none"), "NOT_FOUND", "Model with name none does not exist."),
        (v2.ModelInferRequest(model_name="echo", model_version="9"), "NOT_FOUND", "Specific(echo, 9)"),
        (v2.ModelInferRequest(model_name="echo", model_version="new"), "INVALID_ARGUMENT", "version number"),
        (infer_request("not-ready"), "UNAVAILABLE", "Model with name not-ready is not ready."),
        (infer_request("echo", shape=[2]), "INVALID_ARGUMENT", 'input "x": fp32_contents has 0 values'),
        (infer_request("echo", datatype="FP16"), "INVALID_ARGUMENT", "FP16 is sent as raw bytes only"),
        (
            v2.ModelInferRequest(model_name="echo", raw_input_contents=[b"1234"]),
            "INVALID_ARGUMENT",
            "raw_input_contents has 1 tensors, and there are 0 inputs",
        ),
        (
            v2_client.request("echo", {"a": ROWS}, ["z"]),
            "INVALID_ARGUMENT",
            "Unexpected inference output 'z' for model 'echo'",
        ),
        (v2_client.request("rows", {"rows": ROWS[:, :3]}), "INVALID_ARGUMENT", "expected [-1, 4]"),
        (v2_client.request("failing", {"input": ROWS}), "INVALID_ARGUMENT", "row 3 is too long"),
        (v2_client.request("failing", {"value": ROWS}), "INTERNAL", "ValueError : cannot read weights.pt"),
        (v2_client.request("failing", {"later": ROWS}), "UNIMPLEMENTED", "later"),
        (v2_client.request("failing", {"text": ROWS}), "INTERNAL", "the model's answer is str, and no"),
        (v2_client.request("failing", {"large": ROWS}), "RESOURCE_EXHAUSTED", "1200000"),
        (v2_client.request("echo", {"a": np.zeros(300_000)}), "RESOURCE_EXHAUSTED", "1000000"),
    ],
)  # fmt: skip
def test_errors_have_their_codes(ask, request_message, code, words):
    with pytest.raises(Refused) as error:
        ask("ModelInfer", request_message)
    assert error.value.code == code, error.value.details
    assert words in error.value.details


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
def test_models_that_are_not_there_are_not_found(ask, method):
    kind = getattr(v2, f"{method}Request")
    for fields, code in (
        ({"name": "none"}, "NOT_FOUND"),
        ({"name": "echo", "version": "2"}, "NOT_FOUND"),
        ({"name": "echo", "version": "-1"}, "INVALID_ARGUMENT"),
    ):
        with pytest.raises(Refused) as error:
            ask(method, kind(**fields))
        assert error.value.code == code


@pytest.mark.parametrize("name", ["stream", "plain-stream"])
def test_a_stream_is_refused_and_closed(ask, served, name):
    with pytest.raises(Refused, match="piece by piece") as error:
        ask.infer(name, ROWS)
    assert error.value.code == "UNIMPLEMENTED"
    closed = served.folder / "closed"
    assert closed.exists()  # before the answer
    closed.unlink()


def test_a_deadline_is_the_models_too(ask, served):
    with pytest.raises(Refused) as error:
        ask.infer("wait", ROWS, timeout=0.5)
    assert error.value.code == "DEADLINE_EXCEEDED"
    wait_until((served.folder / "dropped").exists, what="the call dropped")


def test_methods_that_are_not_there_are_unimplemented(ask):
    call = ask.channel.unary_unary(f"/{v2_client.SERVICE}/SystemSharedMemoryStatus")
    with pytest.raises(grpc.RpcError) as error:
        call(b"", timeout=60)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


# -- the repository


def test_the_index_has_the_models_and_their_states(ask):
    index = ask("RepositoryIndex").models
    assert {"echo", "loaded", "not-ready"} <= {each.name for each in index}
    states = {each.name: (each.version, each.state) for each in index}
    assert states["echo"] == ("1", "READY")
    assert states["not-ready"][1] != "READY"
    ready = ask("RepositoryIndex", v2.RepositoryIndexRequest(ready=True)).models
    assert {each.name for each in ready} == {name for name, (_, state) in states.items() if state == "READY"}


@pytest.mark.parametrize("field", ["repository_name", "model_name"])  # where KServe and Triton have the name
def test_a_model_is_unloaded_and_loaded_in_all_workers(ask, served, field):
    unloaded = ask(
        "RepositoryModelUnload", v2.RepositoryModelUnloadRequest(**{field: "loaded"}), metadata=ADMIN
    )
    assert (unloaded.model_name, unloaded.isUnloaded) == ("loaded", True)
    assert codes(served, "loaded") == {"UNAVAILABLE"}
    loaded = ask("RepositoryModelLoad", v2.RepositoryModelLoadRequest(**{field: "loaded"}), metadata=ADMIN)
    assert (loaded.model_name, loaded.isLoaded) == ("loaded", True)
    assert codes(served, "loaded") == {"OK"}


def codes(server, name):
    """How calls end on several connections."""
    found = set()
    for number in range(6):
        with v2_client.connected(server.grpc_port, name=str(number)) as client:
            try:
                client.infer(name, ROWS)
                found.add("OK")
            except Refused as error:
                found.add(error.code)
    return found


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
@pytest.mark.parametrize(
    ("metadata", "name", "code", "words"),
    [
        ([], "loaded", "UNAUTHENTICATED", "An admin token is needed"),
        ([("authorization", "Bearer other")], "loaded", "UNAUTHENTICATED", "An admin token is needed"),
        ([*ADMIN, ("x-forwarded-for", "10.0.0.1")], "loaded", "PERMISSION_DENIED", "from this machine only"),
        (ADMIN, "none", "NOT_FOUND", "Model with name none does not exist."),
    ],
)
def test_administrators_only_load_models(ask, method, metadata, name, code, words):
    with pytest.raises(Refused, match=words) as error:
        ask(method, getattr(v2, f"{method}Request")(model_name=name), metadata=metadata)
    assert error.value.code == code


def test_a_configuration_in_a_request_is_refused(ask):
    request = v2.RepositoryModelLoadRequest(model_name="loaded")
    request.parameters["config"].string_param = "{}"
    with pytest.raises(Refused, match="this call takes no parameters") as error:
        ask("RepositoryModelLoad", request, metadata=ADMIN)
    assert error.value.code == "INVALID_ARGUMENT"


# -- keys and TLS


KEY = [("x-api-key", "sesame")]


def test_a_key_lets_in_over_tls(tell):
    for method, request in (
        ("ModelInfer", v2_client.request("echo", {"a": ROWS})),
        ("ServerMetadata", None),
        ("ModelMetadata", v2.ModelMetadataRequest(name="echo")),
        ("RepositoryIndex", None),
        ("RepositoryModelLoad", v2.RepositoryModelLoadRequest(model_name="echo")),
    ):
        with pytest.raises(Refused, match="An API key is needed") as error:
            tell(method, request)
        assert error.value.code == "UNAUTHENTICATED"
    answer = tell.infer("echo", ROWS, metadata=KEY)
    assert "x-api-key" not in v2_client.parameters(answer)["headers"]


def test_a_message_that_is_never_let_in_is_not_received(tell):
    with pytest.raises(Refused, match="1000000") as error:
        tell.infer("echo", np.zeros(300_000), metadata=KEY)
    assert error.value.code == "RESOURCE_EXHAUSTED"


def test_probes_need_no_key(tell):
    assert tell("ServerLive").live
    assert tell("ServerReady").ready
    assert tell("ModelReady", v2.ModelReadyRequest(name="echo")).ready


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_administrative_calls_are_not_there_unless_enabled(tell, method):
    request = getattr(v2, f"{method}Request")(model_name="echo")
    with pytest.raises(Refused, match="--enable_admin") as error:
        tell(method, request, metadata=KEY)
    assert error.value.code == "UNIMPLEMENTED"
    assert "model_repository_extension" not in tell("ServerMetadata", metadata=KEY).extensions


# -- reflection and health

REFLECT = """
import json, sys
import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}")
database = ProtoReflectionDescriptorDatabase(channel)
names = database.get_services()
pool = DescriptorPool(database)
methods = {name: [each.name for each in pool.FindServiceByName(name).methods] for name in names}
infer = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelInfer")
missing = []
for find, what in (
    (pool.FindFileByName, "none.proto"),
    (pool.FindMessageTypeByName, "inference.None"),
    (database.FindAllExtensionNumbers, "inference.None"),
):
    try:
        find(what)
    except KeyError:
        missing.append(what)
print(json.dumps({
    "methods": methods,
    "input": [[field.name, field.number] for field in infer.input_type.fields],
    "signature": pool.FindMessageTypeByName("tensorflow.SignatureDef").file.name,
    "extensions": database.FindAllExtensionNumbers("inference.ModelInferRequest"),
    "missing": missing,
}))
"""


def test_grpcs_own_client_learns_the_services(served, clients_python):
    done = subprocess.run(
        [clients_python, "-c", REFLECT, str(served.grpc_port)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["methods"].keys() == {
        "inference.GRPCInferenceService",
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert "ModelInfer" in told["methods"]["inference.GRPCInferenceService"]
    assert ["raw_input_contents", 7] in told["input"]
    assert told["signature"] == "modelserver/tensorflow.proto"  # what ModelMetadata builds on
    assert told["extensions"] == []
    assert told["missing"] == ["none.proto", "inference.None", "inference.None"]


@pytest.mark.parametrize("package", ["grpc.reflection.v1", "grpc.reflection.v1alpha"])
def test_reflection_needs_a_key(tell, package):
    call = tell.channel.stream_stream(f"/{package}.ServerReflection/ServerReflectionInfo")
    list_services = b"\x3a\x00"
    with pytest.raises(grpc.RpcError) as error:
        list(call(iter([list_services]), timeout=60))
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    [answer] = call(iter([list_services]), timeout=60, metadata=KEY)
    assert b"inference.GRPCInferenceService" in answer


@pytest.mark.parametrize(
    ("service", "answer"),
    [
        (v2_client.SERVICE, b"\x08\x02"),
        ("grpc.reflection.v1.ServerReflection", b"\x08\x02"),
        ("echo", b"\x08\x01"),
    ],
)
def test_the_standard_health_service_knows_the_services(ask, service, answer):
    """Not serving, as a model is not ready."""
    request = b"\x0a%c%b" % (len(service), service.encode())
    assert ask.channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=60) == answer


# -- the server's life


def test_a_stopped_server_answers_what_it_has(programs, tmp_path):
    """Two workers with calls in flight, and streams that nobody ends."""
    with grpc_serving(programs, tmp_path, "--workers=2", ONLY_READY="1") as server:
        clients = [v2_client.Client(server.grpc_port, name=str(number)) for number in range(4)]
        wait_until(lambda: is_ready(clients[0]), 120, "models")
        waiting = [client.start("ModelInfer", v2_client.request("wait", {"x": ROWS})) for client in clients]
        wait_until(lambda: len(list(tmp_path.glob("calls-*"))) == 4, what="calls")
        never = threading.Event()
        open_streams = [
            client.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(
                iter(never.wait, True)
            )
            for client in clients
        ]
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: b"Stopping" in server.log.read_bytes(), what="stopping")
        (tmp_path / "go").touch()
        assert [each.result(60).model_name for each in waiting] == ["wait"] * 4
        assert server.process.wait(60) == 0
        assert [list(each) for each in open_streams] == [[]] * 4
        never.set()
        for client in clients:
            client.close()


def test_traffic_sees_nothing_but_the_end(programs, tmp_path):
    """Two workers, which are replaced: all calls before the end are answered, the last ones UNAVAILABLE."""
    with grpc_serving(programs, tmp_path, "--workers=2", ONLY_READY="1") as server:
        with v2_client.connected(server.grpc_port) as client:
            wait_until(lambda: is_ready(client), 120, "models")
        many, codes, join = v2_client.until_gone(server.grpc_port, "echo", ROWS)
        assert many.wait(60)
        before = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: before.isdisjoint(server.workers()), 60, "other workers")
        assert set(codes) == {"OK"}
        assert server.stop() == 0
        join()
        ends = [code for code in codes if code != "OK"]
        assert len(ends) == 4
        assert all(code.startswith("UNAVAILABLE") for code in ends)

"""gRPC as TensorFlow Serving speaks it: the real client against real servers.

What a SavedModel should answer was worked out by hand; its dtypes are compared with what was sent.
"""

import contextlib
import re
import signal

import numpy as np
import pytest
import tfs_client
from harness import run, serving, wait_until
from tfs_client import RpcError

GRPC = re.compile(rb"grpc://[^ ,]*:(\d+)")
ONE = {"x": np.float32([1])}
FEATURES = [{"x": 0.25, "name": b"ada"}, {"x": 1.0}]
CONFIG = """
model_config_list {{
  config {{
    name: "main" base_path: "{path}" model_platform: "tensorflow"
    model_version_policy {{ {policy} }}
    {labels}
  }}
}}
"""
LABELS = 'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'


@pytest.fixture(scope="module")
def client():
    with tfs_client.Client() as client:
        yield client


@contextlib.contextmanager
def grpc_serving(arguments, log, **kwargs):
    with serving(arguments, log, **kwargs) as server:
        found = wait_until(lambda: GRPC.search(log.read_bytes()), what="gRPC")
        server.grpc_port = int(found[1])
        yield server


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A configuration of two versions with a label each."""
    folder = tmp_path_factory.mktemp("grpc")
    done = run([tfs_client.PROGRAMS / "tfs_exports.py", folder])
    assert done.returncode == 0, done.stderr
    file = folder / "models.config"
    file.write_text(CONFIG.format(path=folder / "main", policy="all {}", labels=LABELS))
    return file


@pytest.fixture(scope="module")
def saved(config):
    """A server of that configuration."""
    arguments = ["-m", "modelserver", "--model_config_file", config, "--enable_grpc=true", "--grpc_port=0"]
    with grpc_serving(arguments, config.with_name("log")) as server:
        yield server.wait_ready("main")


@pytest.fixture
def ask(client, saved):
    """Call the server of SavedModels."""
    return lambda function, *args, **kwargs: client(function, saved.grpc_port, *args, **kwargs)


@pytest.fixture(scope="module")
def plain(client, tmp_path_factory):
    """A server of models that know V1 only."""
    folder = tmp_path_factory.mktemp("plain")
    env = {"FOLDER": str(folder)}
    with grpc_serving([tfs_client.PROGRAMS / "tensors.py"], folder / "log", env=env) as server:
        server.folder = folder
        yield server.wait_ready("seen", "wait")


@pytest.fixture
def tell(client, plain):
    """Call the server of other models."""
    return lambda function, *args, **kwargs: client(function, plain.grpc_port, *args, **kwargs)


def test_predict_answers_with_the_version_and_the_signature(ask):
    outputs, spec = ask(tfs_client.predict, "main", {"x": np.float32([[1, 2], [3, 4]])})
    assert outputs["y"].tolist() == [[2.5, 3.0], [3.5, 4.0]]
    assert outputs["y"].dtype == np.float32
    assert spec == ("main", "serving_default", 2)


@pytest.mark.parametrize(("version", "answered"), [(1, 1), (2, 2), ("stable", 1), ("canary", 2)])
def test_a_version_is_asked_by_number_or_label(ask, version, answered):
    outputs, spec = ask(tfs_client.predict, "main", {"x": np.float32([0])}, version=version)
    assert outputs["y"].tolist() == [answered]
    assert spec[2] == answered


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        *((f"float{bits}", [0.5, -1.25, float("inf")]) for bits in (16, 32, 64)),
        *((f"{sign}int{bits}", [0, 1, 100]) for sign in ("u", "") for bits in (8, 16, 32, 64)),
        ("bool", [True, False]),
        ("complex64", [1 + 2j, -3j]),
        ("complex128", [1 + 2j, -3j]),
        ("string", [b"a\xff", b"", "é".encode()]),
    ],
)
def test_every_dtype_and_shape_comes_back_as_it_was_sent(ask, dtype, values):
    array = np.array(values, object if dtype == "string" else dtype)
    for sent in (array, array[:1].reshape(1, 1, 1), array[0]):
        outputs, _ = ask(tfs_client.predict, "main", {"x": sent}, signature_name=dtype)
        same = outputs["same"]
        assert same.tolist() == (sent.tolist() if hasattr(sent, "tolist") else sent)
        assert same.shape == np.shape(sent)
        assert dtype == "string" or same.dtype == dtype


def test_bfloat16_comes_back_as_it_was_sent(ask):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    sent = np.array([0.5, 3.0], ml_dtypes.bfloat16)
    outputs, _ = ask(tfs_client.predict, "main", {"x": sent}, signature_name="bfloat16")
    assert outputs["same"].tolist() == [0.5, 3.0]


def test_several_inputs_and_outputs(ask):
    outputs, spec = ask(
        tfs_client.predict, "main", {"a": [b"n", b"m"], "b": np.int64([1, 2])}, signature_name="join"
    )
    assert outputs["text"].tolist() == [b"n1", b"m2"]
    assert spec[1] == "join"
    x = {"x": np.float32([[1, 2, 6]])}
    outputs, _ = ask(tfs_client.predict, "main", x, signature_name="stats")
    assert {name: array.tolist() for name, array in outputs.items()} == {"sum": [9], "mean": [3]}


def test_an_output_filter_chooses_outputs(ask):
    x = {"x": np.float32([[1, 2, 6]])}
    outputs, _ = ask(tfs_client.predict, "main", x, ["mean"], signature_name="stats")
    assert list(outputs) == ["mean"]
    with pytest.raises(RpcError) as error:
        ask(tfs_client.predict, "main", x, ["median"], signature_name="stats")
    assert error.value.code == "INVALID_ARGUMENT"
    assert "median" in error.value.details


def test_large_tensors_pass(ask):
    """More than the 4 MiB that gRPC allows by default."""
    array = np.arange(5_000_000, dtype=np.float32).reshape(5, -1)
    outputs, _ = ask(tfs_client.predict, "main", {"x": array}, signature_name="float32")
    assert np.array_equal(outputs["same"], array)


@pytest.mark.parametrize(
    ("name", "inputs", "spec", "code", "words"),
    [
        ("none", ONE, {}, "NOT_FOUND", "Servable not found for request: Latest(none)"),
        (
            "main",
            ONE,
            {"version": 9},
            "NOT_FOUND",
            "Servable not found for request: Specific(main, 9)",
        ),
        (
            "main",
            ONE,
            {"version": "new"},
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: new",
        ),
        ("main", ONE, {"signature_name": "no"}, "INVALID_ARGUMENT", '"no" not found'),
        ("main", {"z": np.float32([1])}, {}, "INVALID_ARGUMENT", "x"),
        ("main", {}, {}, "INVALID_ARGUMENT", "x"),
        ("main", {"x": [b"text"]}, {}, "INVALID_ARGUMENT", "string"),
        (
            "main",
            {"a": np.zeros((1, 2), "f4"), "b": np.zeros((3, 1), "f4")},
            {"signature_name": "matmul"},
            "INVALID_ARGUMENT",
            "Matrix size-incompatible",
        ),
    ],
)
def test_errors_have_tensorflow_servings_codes(ask, name, inputs, spec, code, words):
    with pytest.raises(RpcError) as error:
        ask(tfs_client.predict, name, inputs, **spec)
    assert error.value.code == code, error.value.details
    assert words in error.value.details


@pytest.mark.parametrize(
    ("method", "kind", "words"),
    [
        ("Predict", "PredictRequest", "Missing ModelSpec"),
        ("Classify", "ClassificationRequest", "Missing ModelSpec"),
        ("Regress", "RegressionRequest", "Missing ModelSpec"),
        ("GetModelMetadata", "GetModelMetadataRequest", "Missing ModelSpec"),
        ("GetModelStatus", "GetModelStatusRequest", "Missing ModelSpec"),
        ("HandleReloadConfigRequest", "ReloadConfigRequest", "Only ModelConfigList is currently supported"),
    ],
)
def test_an_empty_request_is_refused(ask, method, kind, words):
    with pytest.raises(RpcError, match=words) as error:
        ask(tfs_client.empty, method, kind)
    assert error.value.code == "INVALID_ARGUMENT"


def test_classify(ask):
    results, spec = ask(tfs_client.classify, "main", FEATURES, signature_name="classify_x")
    assert results == [[("ada", 0.25), ("other", 0.75)], [("nobody", 1.0), ("other", 0.0)]]
    assert spec == ("main", "classify_x", 2)


def test_the_context_is_merged_into_each_example(ask):
    examples, context = [{"name": b"ada"}, {"x": 1.0}], {"x": 0.5, "name": b"bo"}
    results, _ = ask(tfs_client.classify, "main", examples, context, signature_name="classify_x")
    assert results == [[("ada", 0.5), ("other", 0.5)], [("bo", 1.0), ("other", 0.0)]]


@pytest.mark.parametrize(("version", "expected"), [(None, [1.0, 4.0]), ("stable", [0.5, 2.0])])
def test_regress(ask, version, expected):
    values, _ = ask(tfs_client.regress, "main", FEATURES, signature_name="regress_x", version=version)
    assert values == expected


def test_multi_inference(ask):
    tasks = [("main", "classify_x", "classify"), ("main", "regress_x", "regress")]
    (classes, first), (values, second) = ask(tfs_client.multi_inference, tasks, FEATURES)
    assert classes[0] == [("ada", 0.25), ("other", 0.75)]
    assert values == [1.0, 4.0]
    assert (first, second) == (("main", "classify_x", 2), ("main", "regress_x", 2))


@pytest.mark.parametrize(
    ("tasks", "code", "words"),
    [
        ([("main", "regress_x", "predict")], "UNIMPLEMENTED", "Unsupported signature method_name"),
        (
            [("main", "regress_x", "regress")] * 2,
            "INVALID_ARGUMENT",
            "Duplicate evaluation of signature: regress_x",
        ),
        (
            [("main", "a", "regress"), ("b", "b", "regress")],
            "INVALID_ARGUMENT",
            "must access the same model name",
        ),
        ([("", "a", "regress")], "INVALID_ARGUMENT", "empty model name"),
        ([("none", "a", "regress")], "NOT_FOUND", "Latest(none)"),
        ([("main", "a", "regress")], "INVALID_ARGUMENT", "No signature was found with the name: a"),
    ],
)
def test_multi_inference_refuses(ask, tasks, code, words):
    with pytest.raises(RpcError, match=re.escape(words)) as error:
        ask(tfs_client.multi_inference, tasks, FEATURES)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("function", "examples", "spec", "words"),
    [
        (tfs_client.classify, [], {"signature_name": "classify_x"}, "Input is empty."),
        (tfs_client.regress, FEATURES, {"signature_name": "classify_x"}, "Expected one output"),
        (tfs_client.regress, [{"x": 1}], {"signature_name": "regress_x"}, "Data types don't match"),
        (tfs_client.classify, FEATURES, {}, "inputs"),
    ],
)
def test_examples_that_do_not_fit_are_refused(ask, function, examples, spec, words):
    with pytest.raises(RpcError, match=words) as error:
        ask(function, "main", examples, **spec)
    assert error.value.code == "INVALID_ARGUMENT"


def test_metadata(ask, saved):
    found, spec = ask(tfs_client.metadata, "main", version="stable")
    assert spec == ("main", "", 1)
    assert {"serving_default", "stats", "join", "classify_x", "bfloat16"} <= found.keys()
    assert found["join"]["inputs"]["b"]["dtype"] == "DT_INT64"
    assert found["join"]["methodName"] == "tensorflow/serving/predict"
    shown = saved.get("/v1/models/main/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert shown.keys() == found.keys()


@pytest.mark.parametrize(
    ("name", "fields", "code", "words"),
    [
        ("main", (), "INVALID_ARGUMENT", "must specify at least one metadata_field"),
        ("main", ("other",), "INVALID_ARGUMENT", "Metadata field other is not supported"),
        ("none", ("signature_def",), "NOT_FOUND", re.escape("Latest(none)")),
    ],
)
def test_metadata_that_is_not_there(ask, name, fields, code, words):
    with pytest.raises(RpcError, match=words) as error:
        ask(tfs_client.metadata, name, fields)
    assert error.value.code == code


def test_status(ask):
    both = [(2, "AVAILABLE", "OK"), (1, "AVAILABLE", "OK")]
    assert ask(tfs_client.status, "main") == both
    assert ask(tfs_client.status, "main", version=1) == both[1:]
    assert ask(tfs_client.status, "main", version="stable") == both


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("none", None, "Could not find any versions of model none"),
        ("main", 7, "Could not find version 7 of model main"),
    ],
)
def test_status_that_is_not_there(ask, name, version, words):
    with pytest.raises(RpcError, match=words) as error:
        ask(tfs_client.status, name, version=version)
    assert error.value.code == "NOT_FOUND"


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x05abc"])
def test_bytes_that_are_no_message_are_the_clients_fault(ask, data):
    with pytest.raises(RpcError, match=r"not a tensorflow.serving.PredictRequest") as error:
        ask(tfs_client.raw, "/tensorflow.serving.PredictionService/Predict", data)
    assert error.value.code == "INVALID_ARGUMENT"


def test_methods_that_are_not_there_are_unimplemented(ask):
    with pytest.raises(RpcError) as error:
        ask(tfs_client.raw, "/tensorflow.serving.SessionService/SessionRun", b"")
    assert error.value.code == "UNIMPLEMENTED"


@pytest.mark.parametrize(("service", "answer"), [("", b"\x08\x01"), ("main", b"\x08\x01"), ("x", None)])
def test_the_standard_health_service(ask, service, answer):
    request = b"\x0a%c%b" % (len(service), service.encode()) if service else b""
    try:
        assert ask(tfs_client.raw, "/grpc.health.v1.Health/Check", request) == answer
    except RpcError as error:
        assert (error.code, answer) == ("NOT_FOUND", None)


def test_a_configuration_is_reloaded_in_all_workers(client, config, tmp_path):
    """Of two workers, so that the answer must wait for both."""
    only_1 = CONFIG.format(path=config.parent / "main", policy="specific { versions: 1 }", labels="")
    arguments = ["-m", "modelserver", "--model_config_file", config, "--enable_grpc=true", "--grpc_port=0"]
    with grpc_serving([*arguments, "--workers=2"], tmp_path / "log") as server:
        wait_until(lambda: "modelserver_workers_ready 2" in server.get("/metrics").body.decode(), 60)
        port = server.grpc_port
        assert client(tfs_client.reload, port, only_1) == "OK"
        inputs = {"x": np.float32([0])}
        assert {client(tfs_client.predict, port, "main", inputs)[1][2]} == {1}
        codes = client(tfs_client.at_once, port, "main", inputs, 8)
        assert codes == ["OK"] * 8
        for wrong, code in (("/gone", "FAILED_PRECONDITION"), ("gone", "INVALID_ARGUMENT")):
            more = f'config {{ name: "more" base_path: "{wrong}" model_platform: "tensorflow" }} }}'
            with pytest.raises(RpcError) as error:
                client(tfs_client.reload, port, only_1.rstrip().removesuffix("}") + more)
            assert error.value.code == code, error.value.details
        assert client(tfs_client.predict, port, "main", inputs)[1][2] == 1


# -- models of V1


@pytest.mark.parametrize(
    ("inputs", "seen"),
    [
        ({"x": np.float32([[1, 2]])}, "ndarray float32 {'instances': array([[1., 2.]], dtype=float32)}"),
        ({"x": [b"a", "é".encode(), b"\xff"]}, "list  {'instances': ['a', 'é', {'b64': '/w=='}]}"),
        (
            {"n": np.int64([1, 2]), "t": [[b"a"], [b"b"]]},
            "list  {'instances': [{'n': 1, 't': ['a']}, {'n': 2, 't': ['b']}]}",
        ),
    ],
)
def test_a_model_of_v1_gets_a_v1_body(tell, inputs, seen):
    outputs, spec = tell(tfs_client.predict, "seen", inputs)
    got, *_ = outputs["predictions"].tolist()
    # Keys of a protobuf map come in no order.
    assert sorted(got.decode()) == sorted(seen)
    assert spec == ("seen", "serving_default", 1)


def test_a_model_of_v1_gets_the_metadata_as_headers(tell):
    how = {"metadata": [("x-tenant", "blue")]}
    outputs, _ = tell(tfs_client.predict, "seen", {"x": [1.0]}, how=how)
    assert outputs["predictions"].tolist()[1:] == [b"blue", b""]


def test_a_model_of_v1_answers_with_named_outputs(tell):
    x = {"x": np.float64([[1, 2], [3, 5]])}
    outputs, _ = tell(tfs_client.predict, "named", x)
    assert outputs["total"].tolist() == [3, 8]
    outputs, spec = tell(tfs_client.predict, "named", x, signature_name="range")
    assert {name: array.tolist() for name, array in outputs.items()} == {"low": [1, 3], "high": [2, 5]}
    assert spec[1] == "range"
    outputs, _ = tell(tfs_client.predict, "named", x, ["high"], signature_name="range")
    assert list(outputs) == ["high"]


def test_a_model_of_v1_gets_examples_as_dictionaries(tell):
    results, _ = tell(tfs_client.classify, "seen", [{"a": 1, "t": b"x"}], {"b": 0.5})
    assert results == [[("[('a', 1), ('b', 0.5), ('t', b'x')]", 0.5)]]
    with pytest.raises(RpcError, match="has no regression") as error:
        tell(tfs_client.regress, "seen", [{"a": 1}])
    assert error.value.code == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    ("name", "inputs", "code", "words"),
    [
        ("seen", {}, "INVALID_ARGUMENT", "The request has no inputs."),
        ("seen", {"x": 1.0}, "INVALID_ARGUMENT", "input x: a single value, expected one row"),
        ("seen", {"x": [1], "y": [1, 2]}, "INVALID_ARGUMENT", "different numbers of rows"),
        ("seen", {"x": [1]}, "INVALID_ARGUMENT", "There is no output other"),
        ("failing", {"x": ["input"]}, "INVALID_ARGUMENT", "é" * 512 + "...TRUNCATED"),
        ("failing", {"x": ["ragged"]}, "INTERNAL", "the model's output predictions is no tensor"),
        ("failing", {"x": ["cancelled"]}, "INTERNAL", "CancelledError"),
        ("failing", {"x": ["exit"]}, "INTERNAL", "the model called SystemExit"),
        ("failing", {"x": ["value"]}, "INTERNAL", "ValueError : cannot read weights.pt"),
    ],
)
def test_errors_of_a_model_of_v1(tell, name, inputs, code, words):
    wanted = ["other"] if "no output" in words else []
    with pytest.raises(RpcError) as error:
        tell(tfs_client.predict, name, inputs, wanted)
    assert error.value.code == code
    assert words in error.value.details


def test_a_deadline_is_the_models_too(tell, plain):
    with pytest.raises(RpcError) as error:
        tell(tfs_client.predict, "wait", {"x": [1.0]}, how={"timeout_s": 0.3})
    assert error.value.code == "DEADLINE_EXCEEDED"
    wait_until((plain.folder / "dropped").exists, what="the call dropped")
    (plain.folder / "dropped").unlink()


def test_a_client_that_leaves_frees_its_place(client, plain):
    before = set(plain.folder.glob("calls-*"))
    wait = plain.folder / "leave"
    leaving = client.start(tfs_client.cancelled, plain.grpc_port, "wait", {"x": [1.0]}, wait)
    wait_until(lambda: set(plain.folder.glob("calls-*")) - before, what="the call")
    wait.touch()
    assert leaving.result(60) == "CANCELLED"
    wait_until((plain.folder / "dropped").exists, what="the call dropped")

    def counted(line):
        return line in plain.get("/metrics").body.decode()

    wait_until(lambda: counted('modelserver_requests_total{model="wait",verb="predict",status="499"} 1'))
    wait_until(lambda: counted('modelserver_queue_length{model="wait"} 0'))


def test_calls_are_counted_and_logged(tell, plain):
    tell(tfs_client.predict, "named", {"x": np.float64([[1, 2]])})
    assert (
        'modelserver_requests_total{model="named",verb="predict",status="200"}'
        in plain.get("/metrics").body.decode()
    )
    line = r"(127\.0\.0\.1|::1|::ffff:127\.0\.0\.1) POST /tensorflow\.serving\.PredictionService/Predict 200 "
    wait_until(lambda: re.search(line, plain.text()), what="the line")


# -- the server's life


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_server_answers_what_it_has(client, tmp_path, workers):
    """Traffic without a pause, and calls that wait for the model: none is lost, new ones are refused."""
    program = [tfs_client.PROGRAMS / "tensors.py", f"--workers={workers}"]
    with grpc_serving(program, tmp_path / "log", env={"FOLDER": str(tmp_path)}) as server:
        server.wait_ready("hold", "wait")
        waiting = client.start(tfs_client.at_once, server.grpc_port, "wait", {"x": [1.0]}, 8)
        wait_until(lambda: len(list(tmp_path.glob("calls-*"))) == 8, what="calls")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: b"Stopping" in server.log.read_bytes(), what="stopping")
        (tmp_path / "go").touch()
        assert waiting.result(60) == ["OK"] * 8
        assert server.process.wait(60) == 0


def test_traffic_sees_nothing_but_the_end(client, tmp_path):
    """Two workers, which are replaced: all calls before the end are answered, the last ones UNAVAILABLE."""
    with grpc_serving([tfs_client.PROGRAMS / "tensors.py", "--workers=2"], tmp_path / "log") as server:
        server.wait_ready("hold")
        started = tmp_path / "started"
        traffic = client.start(tfs_client.until_gone, server.grpc_port, "hold", {"x": [1.0]}, started)
        wait_until(started.exists, what="traffic")
        before = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: before.isdisjoint(server.workers()), 60, "other workers")
        assert not traffic.done()
        assert server.stop() == 0
        codes = traffic.result(60)
        assert codes.pop("OK") >= 80
        assert sum(codes.values()) == 4
        assert all(code.startswith("UNAVAILABLE") for code in codes)


def test_a_key_lets_in_over_tls(client, tmp_path, pair, pairs):
    """With a certificate that is replaced."""
    env = {"MODELSERVER_API_KEY": "sesame"}
    program = [
        tfs_client.PROGRAMS / "tensors.py",
        f"--ssl_certfile={pair.certfile}",
        f"--ssl_keyfile={pair.keyfile}",
    ]
    with grpc_serving(program, tmp_path / "log", env=env) as server:
        certificate = pair.certfile.read_bytes()

        def predict(*metadata):
            how = {"metadata": metadata, "certificate": certificate}
            return client(tfs_client.predict, server.grpc_port, "seen", {"x": [1.0]}, how=how)[0][
                "predictions"
            ]

        def is_answered():
            try:
                return predict(("x-api-key", "sesame")) is not None
            except RpcError as error:
                assert error.code == "UNAVAILABLE"
                return False

        wait_until(is_answered, what="an answer")
        for wrong in ((), (("x-api-key", "other"),)):
            with pytest.raises(RpcError, match="An API key is needed, as metadata") as error:
                predict(*wrong)
            assert error.value.code == "UNAUTHENTICATED"
        for right in (("x-api-key", "sesame"), ("authorization", "Bearer sesame")):
            assert predict(right).tolist()[2] == b""
        pair.replace(pairs[1])
        certificate = pairs[1].certfile.read_bytes()  # trusts no other one, on a channel of its own
        wait_until(is_answered, what="the other certificate")


def test_a_port_that_is_taken_stops_the_start(saved, config):
    """Also where the other one is such a server, which lets its own workers share the port."""
    port = saved.grpc_port
    flags = ["--model_config_file", config, "--http_port=0", "--enable_grpc=true", f"--grpc_port={port}"]
    done = run(["-m", "modelserver", *flags])
    assert done.returncode != 0
    assert f"Cannot listen on port {port} for gRPC: Address already in use. Choose another" in done.stderr

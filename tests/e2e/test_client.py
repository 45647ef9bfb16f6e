"""``Client`` and ``AsyncClient`` against real servers: every protocol, workers, gRPC, API keys and TLS."""

import asyncio
import gc
import re
import threading

import certificates
import numpy as np
import pytest
from harness import serving, wait_until

from modelserver import (
    AsyncClient,
    CallFailed,
    CallTimeout,
    Client,
    ClientError,
    InferInput,
    InferRequest,
    ServerUnreachable,
)

KEY = "a-secret-key"
PROTOCOLS = ("v1", "v2", "v2-json", "grpc")
KINDS = [f"{protocol}-{kind}" for protocol in PROTOCOLS for kind in ("threads", "tasks")]
GRPC = re.compile(r"grpcs?://[^ ,]*:(\d+)")
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


class OfLoop:
    """An ``AsyncClient`` that is called like a ``Client``, from one thread."""

    def __init__(self, *args, **options):
        self._runner = asyncio.Runner()
        self.client = AsyncClient(*args, **options)

    def __getattr__(self, name):
        method = getattr(self.client, name)
        return lambda *args, **options: self._runner.run(method(*args, **options))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        self._runner.close()


def url_of(server, protocol, encrypted=""):
    if protocol == "grpc":
        return f"grpc{encrypted}://localhost:{GRPC.search(server.text())[1]}"
    return f"http{encrypted}://localhost:{server.port}"


def client_of(server, kind, encrypted="", **options):
    protocol, _, how = kind.rpartition("-")
    maker = Client if how == "threads" else OfLoop
    spoken = "v2" if protocol == "grpc" else protocol
    return maker(url_of(server, protocol, encrypted), protocol=spoken, **options)


@pytest.fixture(scope="module")
def server(programs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    arguments = [programs / "clients.py", "--workers=2", "--enable_grpc=true", "--grpc_port=0"]
    with serving(arguments, folder / "log", env={"MODELSERVER_API_KEY": KEY}) as server:
        wait_until(lambda: len(re.findall(r"Worker \d .*is ready", server.text())) == 2, 120, "two workers")
        with Client(url_of(server, "v2"), api_key=KEY) as client:  # V2 asks for a model in every worker
            wait_until(lambda: client.is_ready("sums"), 120, "ready")
        yield server


@pytest.fixture(params=KINDS)
def client(request, server):
    with client_of(server, request.param, api_key=KEY, headers={"X-Tenant": "blue"}) as client:
        client.kind = request.param
        yield client


def test_what_the_server_and_its_models_say(client):
    assert client.is_live() is True
    assert client.is_ready("sums") is True
    assert client.is_ready("asleep") is False
    assert client.is_ready() is False
    assert set(client.models()) == {"sums", "echo", "busy", "slow", "asleep"}
    metadata = client.metadata("sums")
    if client.kind.startswith("v1"):
        assert metadata["model_spec"]["name"] == "sums"
    else:
        assert metadata["inputs"] == [{"name": "rows", "datatype": "FP32", "shape": [-1, 3]}]
        assert metadata["outputs"] == [{"name": "sums", "datatype": "FP32", "shape": [-1]}]
    with pytest.raises(CallFailed, match="answered 404: Model with name nothing does not exist") as caught:
        client.is_ready("nothing")
    assert caught.value.status == 404


def test_all_protocols_give_equal_arrays(client):
    for inputs in (ROWS, ROWS.tolist(), {"rows": ROWS}, {"rows": ROWS.tolist()}):
        answer = client.infer("sums", inputs)
        np.testing.assert_array_equal(answer.array, [3, 12])
        assert answer.model_name == "sums"
    named = InferInput("rows", [2, 3], "FP32")
    named.set_data_from_numpy(ROWS)
    np.testing.assert_array_equal(client.infer("sums", InferRequest("sums", [named])).array, [3, 12])
    if not client.kind.startswith("v1"):
        assert list(client.infer("sums", ROWS)) == ["sums"]
        assert client.infer("sums", ROWS, version=1).array.dtype == np.float32


ARRAYS = {
    "float64": np.array([[0.1, -1e300], [5e-324, 3]]),
    "int64": np.array([2**53 + 1, -(2**63), 2**63 - 1]),
    "uint64": np.array([2**64 - 1], np.uint64),
    "bool": np.array([[True, False]]),
    "text": np.array([["ä", "b\0"], ["", "漢字"]], object),
    "empty": np.empty((0, 3)),
    "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big-endian": np.array([1, 2], ">i4"),
}
OF_V2 = {
    **{
        name: np.array([[0, 1, 100]], name)
        for name in ("int8", "int16", "int32", "uint8", "uint16", "uint32")
    },
    "float32": np.array([0.1], np.float32),
    "scalar": np.array(7.5),
    "many dimensions": np.zeros((1, 2, 1, 3, 1), np.float32),
}
OF_BYTES = {
    "float16": np.array([0.1, 65504], np.float16),
    "nan": np.array([np.nan, np.inf, -np.inf], np.float32),
    "bytes": np.array([b"\xff\x00", b""], object),
}


def test_every_array_comes_back_as_it_was(client):
    protocol = client.kind.rpartition("-")[0]
    arrays = ARRAYS | (OF_V2 if protocol != "v1" else {}) | (OF_BYTES if protocol in ("v2", "grpc") else {})
    for name, array in arrays.items():
        got = client.infer("echo", {"x": array}).array
        wanted = (
            np.vectorize(lambda v: v if isinstance(v, bytes) else v.encode(), otypes="O")(array)
            if (array.dtype.kind == "O")
            else array
        )
        assert got.shape == array.shape or protocol == "v1", name
        np.testing.assert_array_equal(got.reshape(array.shape), wanted, name)
        if protocol != "v1":
            assert got.dtype == array.dtype.newbyteorder("="), name


def test_several_inputs_chosen_outputs_and_the_rest_of_a_request(client):
    if client.kind.startswith("v1"):
        answer = client.infer("echo", {"a": ROWS, "b": ["x", "y"]}, id="7")
        np.testing.assert_array_equal(answer["a"], ROWS)
        assert answer["b"].tolist() == [b"x", b"y"]
        assert answer.id == "7"
        assert client.explain("sums", ROWS) == {"explanations": [2]}
        return
    answer = client.infer(
        "echo", {"a": ROWS, "b": ["x", "y"]}, outputs=["b", "a"], parameters={"n": 5}, id="7"
    )
    assert list(answer) == ["b", "a"]
    assert (answer.id, answer.parameters) == ("7", {"tenant": "blue", "n": 5})
    assert client.infer("echo", {"a": ROWS}, headers={"X-Tenant": "red"}).parameters["tenant"] == "red"


def test_errors_have_the_servers_words(client):
    for model, inputs, status, text in (
        ("nothing", ROWS, 404, "Model with name nothing does not exist."),
        ("sums", {"rows": [["x"]]}, 400, "is a string"),
    ):
        with pytest.raises(ClientError if status == 404 else Exception, match=re.escape(text)) as caught:
            client.infer(model, inputs)
        assert caught.value.status == status
    with pytest.raises(CallFailed) as caught:
        client.infer("echo", {"x": ROWS}, version=9)
    assert caught.value.status == 404
    with pytest.raises(CallFailed, match="asleep is not ready") as caught:
        client.infer("asleep", {"x": ROWS}, timeout=0.05)
    assert caught.value.status == 503


def test_a_busy_model_is_asked_again(client):
    number = float(KINDS.index(client.kind))
    assert client.infer("busy", {"x": np.array([[number]], np.float32)}).array.tolist() == [[number]]


def test_a_model_that_takes_longer_than_the_timeout(client):
    with pytest.raises(CallTimeout, match=r"no answer within 0.5 s") as caught:
        client.infer("slow", {"x": ROWS}, timeout=0.5)
    assert caught.value.status == 504
    np.testing.assert_array_equal(client.infer("sums", {"rows": ROWS}).array, [3, 12])


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_without_a_key(server, kind):
    with client_of(server, kind) as client, pytest.raises(CallFailed, match="An API key is needed") as caught:
        client.infer("sums", {"rows": ROWS})
    assert caught.value.status == 401


def test_threads_share_a_client(server):
    wrong, right = [], []
    with Client(url_of(server, "v2"), api_key=KEY) as client:

        def ask(number):
            for step in range(40):
                array = np.full((1, 3), number * 1000 + step, np.float32)
                got = client.infer("sums", array).array
                (right if got.tolist() == [3.0 * (number * 1000 + step)] else wrong).append(got)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(right), wrong) == (320, [])


def test_tasks_share_a_client(server):
    async def run():
        async with AsyncClient(url_of(server, "v2"), api_key=KEY, max_connections=10) as client:
            arrays = [np.full((1, 3), number, np.float32) for number in range(200)]
            answers = await asyncio.gather(*(client.infer("sums", array) for array in arrays))
            assert [each.array.tolist() for each in answers] == [[3.0 * number] for number in range(200)]

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_an_event_loop_does_not_use_the_connections_of_another(server):
    client = AsyncClient(url_of(server, "v2"), api_key=KEY, timeout=60)

    async def ask_and_close():
        async with client:
            return await client.infer("sums", ROWS)

    assert asyncio.run(client.infer("sums", ROWS)).array.tolist() == [3, 12]  # and closes nothing
    assert asyncio.run(ask_and_close()).array.tolist() == [3, 12]
    gc.collect()


def test_a_large_tensor_is_not_copied(server):
    """What a client takes for 8 MB: the answer's own memory, and no copy of the request."""
    import tracemalloc

    array = np.arange(1_000_000, dtype=np.float64)
    with Client(url_of(server, "v2"), api_key=KEY) as client:
        client.infer("echo", {"x": array[:1]})
        tracemalloc.start()
        try:
            answer = client.infer("echo", {"x": array})
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    np.testing.assert_array_equal(answer.array, array)
    assert answer.array.flags.aligned
    assert answer.array.flags.writeable
    assert peak < 1.1 * array.nbytes


# -- a packaged model, over TLS


@pytest.fixture(scope="module")
def encrypted(trained_pytorch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    pair = certificates.make(folder)
    arguments = [
        "-m",
        "modelserver",
        f"iris={trained_pytorch.archive}",
        "--enable_grpc=true",
        "--grpc_port=0",
    ]
    with serving([*arguments, *pair.flags], folder / "log") as server:
        server.certificate = pair.certfile
        with Client(url_of(server, "v1", "s"), ca_file=pair.certfile) as client:
            wait_until(lambda: well(server, client), 120, "ready")
        yield server


def well(server, client):
    assert server.process.poll() is None, server.text()
    return client.is_ready()


IRIS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_packaged_model_over_tls(encrypted, kind):
    with client_of(encrypted, kind, "s", ca_file=encrypted.certificate) as client:
        scores = client.infer("iris", IRIS).array
        assert client.infer("iris", np.array(IRIS, np.float32)).array.tolist() == scores.tolist()
    assert scores.shape == (2, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    with Client(url_of(encrypted, "v1", "s"), protocol="v1", ca_file=encrypted.certificate) as client:
        as_json = client.infer("iris", IRIS).array
    np.testing.assert_array_equal(as_json.astype(np.float32), scores.astype(np.float32))


@pytest.mark.parametrize("kind", ["v2-threads", "v2-tasks", "grpc-threads", "grpc-tasks"])
def test_a_certificate_that_is_not_trusted(encrypted, kind):
    with client_of(encrypted, kind, "s") as client:
        assert client.is_live() is False
        with pytest.raises(
            ServerUnreachable, match=r"TLS: self.signed certificate\. ca_file names"
        ) as caught:
            client.infer("iris", {"x": ROWS})
    assert caught.value.status == 502


@pytest.mark.parametrize("kind", ["v2-threads", "v2-tasks"])
def test_tls_to_a_port_that_speaks_none_and_the_other_way(server, encrypted, kind):
    with client_of(server, kind, "s") as client, pytest.raises(ServerUnreachable, match="TLS: "):
        client.infer("sums", {"rows": ROWS})
    with client_of(encrypted, kind) as client, pytest.raises(CallFailed, match="This port speaks HTTPS"):
        client.infer("iris", {"x": ROWS})


@pytest.mark.parametrize("kind", ["grpc-threads", "grpc-tasks"])
def test_tls_of_grpc_to_a_port_that_speaks_none_and_the_other_way(server, encrypted, kind):
    with client_of(server, kind, "s") as client, pytest.raises(ServerUnreachable, match="TLS: wrong version"):
        client.infer("sums", {"rows": ROWS})
    with client_of(encrypted, kind) as client, pytest.raises(ServerUnreachable, match="cannot connect: the "):
        client.infer("iris", {"x": ROWS})

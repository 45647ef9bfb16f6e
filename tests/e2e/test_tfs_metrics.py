"""TensorFlow Serving's page of metrics and CORS, on a real server with two workers."""

import re

import pytest
from harness import serving, wait_until
from prometheus_client.parser import text_string_to_metric_families
from wire import connect, post, read_answer

PATH = "/monitoring/prometheus/metrics"
GOOD = {"instances": [1]}
BODY = b'{"instances":[1]}'
SERVING = ":tensorflow:serving:"
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


@pytest.fixture(scope="module")
def server(programs, tmp_path_factory):
    """programs/measured.py: two workers, the page, CORS."""
    folder = tmp_path_factory.mktemp("measured")
    gate = folder / "gate"
    gate.touch()
    env = {"BROKEN": str(folder / "broken"), "GATE": str(gate)}
    flags = ["--workers", "2", "--monitoring_path", PATH, "--enable_cors", "true"]
    with serving([programs / "measured.py", *flags], folder / "log", env=env) as server:
        server.wait_ready("hooks", "joined")
        wait_until(
            lambda: "modelserver_workers_ready 2.0" in server.get("/metrics").body.decode(), what="both"
        )
        yield server


def page(server):
    response = server.get(PATH)
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/plain"
    return response.body.decode()


def number(text, name, labels=""):
    """One sample; 0 if it is not there, as ``rate`` and ``sum`` see it."""
    found = re.search(rf"^{re.escape(f'{name}{{{labels}}}')} (.*)$", text, re.MULTILINE)
    return float(found[1]) if found else 0


def test_each_worker_shows_what_both_have_answered(server):
    before = page(server)
    rest = 'model_name="hooks",API="predict",entrypoint="REST"'
    code = 'model_name="hooks",status="{}"'

    def grown(text, name, labels):
        return number(text, f"{SERVING}{name}", labels) - number(before, f"{SERVING}{name}", labels)

    socks, asked = [], 0
    try:
        while len({answer.body for answer in answers(socks)}) < 2:  # who answered is in the body
            asked += len(socks)
            socks.append(connect(server.port))
            assert len(socks) < 50
        asked += len(socks)
        assert server.predict(b"{", "hooks").status == 400

        def shown(sock):
            sock.sendall(f"GET {PATH} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            return read_answer(sock, "GET").body.decode()

        wait_until(
            lambda: grown(page(server), "request_count", code.format("OK")) == asked, what="all counted"
        )
        for sock in socks:  # both workers
            text = shown(sock)
            assert grown(text, "request_count", code.format("OK")) == asked
            assert grown(text, "request_count", code.format("INVALID_ARGUMENT")) == 1
            assert grown(text, "request_latency_count", rest) == asked
            assert grown(text, "request_latency_bucket", f'{rest},le="+Inf"') == asked
            assert 0 < grown(text, "request_latency_sum", rest) < 60e6 * asked
            assert (
                grown(text, "runtime_latency_count", 'model_name="hooks",API="Predict",runtime="python"')
                == asked
            )
    finally:
        for sock in socks:
            sock.close()


def answers(socks):
    for sock in socks:
        sock.sendall(post(BODY, "/v1/models/hooks:predict"))
    return [read_answer(sock) for sock in socks]


def test_batches_and_loads(server):
    batching = f"{SERVING}batching_session:"
    before = page(server)
    assert server.predict({"instances": [1, 2, 3]}, "joined").status == 200
    wait_until(
        lambda: (
            number(page(server), f"{batching}wrapped_run_count")
            == number(before, f"{batching}wrapped_run_count") + 1
        ),
        what="the batch is counted",
    )
    text = page(server)
    assert (
        number(text, f"{batching}processed_batch_size_sum")
        == number(before, f"{batching}processed_batch_size_sum") + 3
    )
    assert number(text, f"{batching}queuing_latency_count", 'thread_pool_name="joined"') >= 1
    loads = number(
        text, ":tensorflow:cc:saved_model:load_attempt_count", 'model_path="flaky",status="success"'
    )
    assert loads == 2  # one in each worker
    assert number(text, ":tensorflow:cc:saved_model:load_latency", 'model_path="flaky"') > 0


def test_prometheus_can_read_it_and_neither_page_has_the_other_s_names(server):
    families = {family.name: family.type for family in text_string_to_metric_families(page(server))}
    assert families[f"{SERVING}request_latency"] == "histogram"
    assert families[f"{SERVING}request_count"] == "counter"
    assert all(name.startswith(":tensorflow:") for name in families)
    assert ":tensorflow" not in server.get("/metrics").body.decode()


def test_to_scrape_it_leaves_no_line_in_the_log_and_to_miss_it_does(server):
    for _ in range(3):
        page(server)
    assert server.get(f"{PATH}/no").status == 404
    wait_until(lambda: f"GET {PATH}/no" in server.text(), what="a line of the request that failed")
    assert f"GET {PATH} " not in server.text()


def test_a_browser_may_ask_and_read(server):
    origin = {"Origin": "http://shop.example"}
    asked = origin | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    preflight = server.request("OPTIONS", "/v1/models/hooks:predict", headers=asked)
    assert (preflight.status, preflight.body) == (200, b"")
    answered = server.predict(GOOD, "hooks", headers=origin)
    refused = server.predict(b"{", "hooks", headers=origin)
    missing = server.get("/v1/models/no", headers=origin)
    assert [each.status for each in (answered, refused, missing)] == [200, 400, 404]
    for response in (preflight, answered, refused, missing, server.get(PATH)):
        assert {name: response.headers[name] for name in CORS} == CORS
    assert server.request("OPTIONS", "/v1/models/hooks:predict").status == 400

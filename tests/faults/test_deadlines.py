"""Requests that take too long, and more of them than can be answered (rows 10, 40, 41 of the matrix)."""

import concurrent.futures
import json
import socket
import time
from pathlib import Path

import pytest
from harness import wait_until


def calls(server, action):
    noted = server.log.parent / "calls"
    return noted.read_text().split().count(action) if noted.exists() else 0


def sleep(seconds):
    return {"instances": ["sleep", seconds]}


def post(body):
    body = json.dumps(body).encode()
    return b"POST /v1/models/model:predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


# row 9: queued work past its deadline is never run
@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_waits_past_its_deadline_is_answered_504_and_never_run(faulty, workers):
    with (
        faulty("--workers", workers, "--timeout", "1") as server,
        concurrent.futures.ThreadPoolExecutor(12) as pool,
    ):
        server.wait_ready("model")
        started = time.monotonic()
        waiting = [pool.submit(server.predict, sleep(1.8)) for _ in range(12)]
        statuses = [call.result().status for call in waiting]
        assert set(statuses) == {504}
        assert time.monotonic() - started < 10
        wait_until(lambda: server.predict({"instances": ["good"]}).status == 200)
        assert calls(server, "sleep") == int(workers)


def test_an_async_hook_is_cancelled_at_its_deadline(faulty):
    with faulty("--timeout", "0.5") as server:
        server.wait_ready("on_loop")
        response = server.predict(sleep(60), "on_loop")
        assert response.status == 504
        assert response.json() == {"error": "Model on_loop did not answer within 0.5 s (--timeout)."}
        assert server.predict({"instances": ["good"]}, "on_loop").status == 200


def test_a_timeout_of_0_is_none(faulty):
    with faulty("--timeout", "0") as server:
        server.wait_ready("model")
        assert server.predict(sleep(1)).status == 200


# row 10
@pytest.mark.parametrize("workers", ["1", "2"])
def test_health_while_every_predict_blocks(faulty, workers):
    with (
        faulty("--workers", workers) as server,
        concurrent.futures.ThreadPoolExecutor(2 * int(workers)) as pool,
    ):
        server.wait_ready("model")
        blocked = [pool.submit(server.predict, sleep(2)) for _ in range(2 * int(workers))]
        polls = []
        while not all(call.done() for call in blocked):
            for path in ("/", "/v1/models/model"):
                started = time.perf_counter()
                assert server.get(path).status == 200
                polls.append(time.perf_counter() - started)
        assert all(call.result().status == 200 for call in blocked)
        assert len(polls) > 20
        assert max(polls) < 1.0


# row 40
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ten_times_the_load_is_shed_at_once_and_the_rest_is_right(faulty, workers):
    """120 requests of 0.2 s at once for a queue of 12 in each worker."""
    with (
        faulty("--workers", workers, "--max_queue_size", "12") as server,
        concurrent.futures.ThreadPoolExecutor(120) as pool,
    ):
        server.wait_ready("model")
        server.predict(sleep(0.2))  # so that the first estimate is known
        wait_until(lambda: server.text().count("is ready") == int(workers) or workers == "1")

        def ask():
            started = time.perf_counter()
            response = server.predict(sleep(0.2))
            return response, time.perf_counter() - started

        asked = [pool.submit(ask) for _ in range(120)]
        alive = [server.get("/").status for _ in range(20)]
        outcomes = [call.result() for call in asked]
        assert alive == [200] * 20
        accepted = [outcome for outcome in outcomes if outcome[0].status == 200]
        shed = [outcome for outcome in outcomes if outcome[0].status == 503]
        assert len(accepted) + len(shed) == 120
        assert 12 <= len(accepted) <= 14 * int(workers) + 12
        assert all(response.json()["predictions"] == ["sleep"] for response, _ in accepted)
        assert max(seconds for _, seconds in accepted) < 12 * 0.2 + 5
        for response, _ in shed:
            assert response.json()["error"].startswith(
                "12 requests wait for the model already. Try again in "
            )
            assert 1 <= int(response.headers["Retry-After"]) <= 4
        # 100 ms is the promise; the clients' own 120 threads share these cores.
        assert sorted(seconds for _, seconds in shed)[len(shed) // 2] < 1.0
        assert server.predict({"instances": ["good"]}).status == 200


def test_what_could_not_be_answered_in_time_is_refused_before_it_waits(faulty):
    """Half a second each and three seconds' patience: once that is known, about six may wait."""
    with faulty("--timeout", "3") as server, concurrent.futures.ThreadPoolExecutor(24) as pool:
        server.wait_ready("model")
        first = [pool.submit(server.predict, sleep(0.5)) for _ in range(4)]
        wait_until(lambda: sum(call.done() for call in first) >= 2)
        statuses = [
            call.result().status for call in [pool.submit(server.predict, sleep(0.5)) for _ in range(20)]
        ]
        assert [call.result().status for call in first] == [200] * 4
        assert statuses.count(503) >= 12
        assert statuses.count(200) >= 1
        assert server.predict({"instances": ["good"]}).status == 200


# row 41
def test_clients_that_reset_their_connections_take_their_queued_work_along(faulty):
    with faulty() as server:
        server.wait_ready("model")
        process = Path(f"/proc/{server.process.pid}")
        descriptors, threads = len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))
        clients = []
        for _ in range(200):
            client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close() resets
            client.sendall(post(sleep(1)))
            clients.append(client)
        wait_until(lambda: calls(server, "sleep"))
        for client in clients:
            client.close()
        started = time.monotonic()
        assert server.predict({"instances": ["good"]}).status == 200
        assert time.monotonic() - started < 20  # 200 s if they all ran
        assert calls(server, "sleep") <= 3
        wait_until(lambda: len(list((process / "fd").iterdir())) <= descriptors + 2)
        assert len(list((process / "task").iterdir())) <= threads + 1
        assert "Traceback" not in server.text()
        assert "ERROR" not in server.text()

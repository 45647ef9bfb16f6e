"""The life of a server: starting, loading, refusing to start, dying workers, stopping."""

import concurrent.futures
import http.client
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from harness import request, run, serving, wait_until

ROWS = {"instances": ["answer"]}


@pytest.fixture
def server(programs, tmp_path):
    """Starts programs/lifecycle.py: ``server("--workers", "2", LOAD="slow")``."""

    def start(*flags, port_flag=True, **env):
        return serving(
            [programs / "lifecycle.py", *flags],
            tmp_path / "log",
            env={"BEGUN": str(tmp_path), **env},
            port_flag=port_flag,
        )

    return start


def wait_in_flight(running, count=1):
    """Until that many predicts have begun: the program says so in a file for each."""
    wait_until(lambda: len(list(running.log.parent.glob("begun-*"))) >= count, what="requests in flight")


# -- starting


def test_port_from_the_environment_as_in_the_specifications_docker_run(server):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with server(port_flag=False, PORT=str(port)) as running:
        assert running.port == port
        assert running.wait_ready("model").predict(ROWS).status == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_one_line_and_exit_1_before_any_model_is_loaded(programs, workers):
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        started = time.monotonic()
        done = run(
            [programs / "lifecycle.py", "--http_port", port, "--workers", workers], env={"LOAD": "slow"}
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"modelserver: Cannot listen on port {port}: Address already in use. Choose another with --http_port."
    ]
    assert time.monotonic() - started < 20  # load() sleeps that long


@pytest.mark.parametrize(
    ("load", "text"),
    [
        ("never", "No model is ready: load() of model returned, but ready is still False."),
        ("raises", "RuntimeError: weights are missing"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_with_nothing_to_serve_does_not_stay(programs, load, text, workers):
    done = run([programs / "lifecycle.py", "--http_port", "0", "--workers", workers], env={"LOAD": load})
    assert done.returncode == 1
    assert text in done.stderr


def test_workers_that_die_while_loading_are_given_up_after_a_while(programs):
    done = run([programs / "lifecycle.py", "--http_port", "0", "--workers", "2"], env={"LOAD": "dies"})
    assert done.returncode == 1
    deaths = [line for line in done.stderr.splitlines() if "exit code 9" in line]
    assert 5 <= len(deaths) <= 10
    assert "giving up" in done.stderr


def test_start_without_a_model_says_so(programs):
    program = "import modelserver; modelserver.ModelServer(http_port=0).start([])"
    done = run(["-c", program])
    assert done.returncode == 1
    assert done.stderr == "modelserver: No model to serve: give start() at least one model.\n"


@pytest.mark.parametrize("argument", ["modelserver.Model('m')", "'m'", "{'m': 1}", "[1]"])
def test_start_takes_a_list_of_models(argument):
    program = f"import modelserver; modelserver.ModelServer(http_port=0).start({argument})"
    done = run(["-c", program])
    assert "TypeError: start() takes" in done.stderr


def test_arguments_of_kserve_that_do_nothing_are_named():
    program = (
        "import modelserver; modelserver.ModelServer(http_port=0, max_threads=4, event_loop='auto').start([])"
    )
    assert "Arguments that do nothing here: event_loop, max_threads" in run(["-c", program]).stderr
    assert (
        "TypeError: ModelServer has no setting htp_port"
        in run(["-c", "import modelserver; modelserver.ModelServer(htp_port=1)"]).stderr
    )


# -- loading


@pytest.mark.parametrize("is_async", ["", "1"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_model_that_is_not_ready_is_loaded_by_the_server(server, workers, is_async):
    with server("--workers", workers, LOAD="later", ASYNC=is_async) as running:
        assert running.wait_ready("model").predict(ROWS).json()["predictions"] == ["answer"]
        wait_until(lambda: "Model model loaded in" in running.text(), what="the line of the first worker")


def test_requests_get_503_while_the_model_loads_and_the_server_is_alive(server):
    with server(LOAD="slow", LOAD_S="2") as running:
        assert running.get("/").json() == {"status": "alive"}
        for response in (running.get("/v1/models/model"), running.predict(ROWS)):
            assert response.status == 503
            assert response.json() == {"error": "Model with name model is not ready."}
        assert running.wait_ready("model").predict(ROWS).status == 200


# -- answering


@pytest.mark.parametrize("workers", ["1", "2"])
def test_health_is_answered_while_every_predict_blocks(server, workers):
    with server("--workers", workers) as running, concurrent.futures.ThreadPoolExecutor(8) as pool:
        running.wait_ready("model")
        blocked = [pool.submit(running.predict, {"instances": ["sleep", 3]}) for _ in range(2)]
        slowest = 0.0
        polls = 0
        while not any(call.done() for call in blocked):
            for path in ("/", "/v1/models/model"):
                started = time.perf_counter()
                assert running.get(path).status == 200
                slowest = max(slowest, time.perf_counter() - started)
                polls += 1
        assert all(call.result().status == 200 for call in blocked)
        assert polls > 20
        # The promise is 50 ms; a bound that a noisy machine keeps still tells it from blocking for 3 s.
        assert slowest < 1.5


def test_one_model_thread_keeps_the_models_code_serial_and_more_do_not(zoo, programs, tmp_path):
    def names(server):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(server.predict, {"instances": [0.3]}, "slow") for _ in range(4)]
            return {call.result().json()["predictions"][0] for call in calls}

    assert names(zoo) == {"model-slow-0"}
    with serving([programs / "zoo.py", "--model_threads", "4"], tmp_path / "log") as running:
        assert len(names(running.wait_ready("slow"))) > 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413_and_names_limit_size_and_flag(zoo, chunked):
    body = b"x" * (11 * 1024 * 1024)
    sent = iter([body[:65536]] * 176) if chunked else body  # http.client sends an iterator in chunks
    response = zoo.predict(sent, "echo")
    assert response.status == 413
    error = response.json()["error"]
    assert "the limit is 10485760" in error
    assert "--max_buffer_size" in error
    assert ("at least " in error) is chunked
    assert chunked or str(len(body)) in error
    assert response.headers["Connection"] == "close"
    assert zoo.predict({"instances": [1]}, "echo").status == 200


def test_the_limit_can_be_moved(server):
    with server("--max_buffer_size", "100") as running:
        running.wait_ready("model")
        assert running.predict(b'{"instances": ["' + b"x" * 81 + b'"]}').status == 200
        assert running.predict(b'{"instances": ["' + b"x" * 82 + b'"]}').status == 413


def test_expect_100_continue_is_refused_without_asking_for_the_body(zoo):
    with socket.create_connection(("127.0.0.1", zoo.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/models/echo:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1099511627776\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        answer = b""
        while piece := connection.recv(65536):  # until the server closes
            answer += piece
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 (Continue)" not in answer


def test_a_client_that_leaves_takes_its_waiting_request_along(zoo):
    """Of 20 requests whose clients are gone only the one that runs costs the model time."""
    connections = []
    body = b'{"instances": [0.5]}'
    for _ in range(20):
        connection = socket.create_connection(("127.0.0.1", zoo.port), timeout=10)
        connection.sendall(
            b"POST /v1/models/slow:predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        connections.append(connection)
    for connection in connections:
        connection.close()
    started = time.monotonic()
    assert zoo.predict({"instances": [0]}, "slow").status == 200
    assert time.monotonic() - started < 5  # 20 x 0.5 s if they all ran


# -- workers that die


def test_a_dead_worker_is_replaced_and_the_others_serve(server):
    with server("--workers", "2") as running, concurrent.futures.ThreadPoolExecutor(2) as pool:
        running.wait_ready("model")
        before = wait_until(lambda: len(running.workers()) == 2 and running.workers())
        slow = pool.submit(running.predict, {"instances": ["sleep", 1.5]})
        wait_in_flight(running)
        busy = int(next(running.log.parent.glob("begun-*")).name.split("-")[1])
        (victim,) = set(before) - {busy}
        os.kill(victim, signal.SIGKILL)
        after = wait_until(
            lambda: victim not in running.workers() and len(running.workers()) == 2 and running.workers()
        )
        assert len(set(after) & set(before)) == 1
        assert slow.result().status == 200
        assert (
            f"(pid {victim}) died: signal 9 (Killed, perhaps for want of memory); a new one starts in"
            in running.text()
        )
        assert running.wait_ready("model").predict(ROWS).status == 200


def test_exit_0_inside_predict_is_a_death_too(server):
    with server("--workers", "2") as running:
        running.wait_ready("model")
        with pytest.raises((ConnectionError, OSError)):
            running.predict({"instances": ["exit", 0]})
        wait_until(lambda: "died: exit code 0" in running.text())
        wait_until(lambda: len(running.workers()) == 2)


def test_workers_end_when_the_supervisor_is_killed(server):
    with server("--workers", "2") as running:
        running.wait_ready("model")
        workers = wait_until(lambda: len(running.workers()) == 2 and running.workers())
        running.process.kill()
        running.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 5)
        with pytest.raises(ConnectionRefusedError):
            running.get("/")


# -- stopping


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_flight_is_finished_then_exit_0(server, workers, number, tmp_path):
    stopped = tmp_path / "stopped"
    with (
        server("--workers", workers, "--model_threads", "3", STOPPED=str(stopped)) as running,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        running.wait_ready("model")
        if workers == "2":
            wait_until(lambda: running.text().count("is ready") == 2, what="both workers ready")
        calls = [pool.submit(running.predict, {"instances": ["sleep", 1]}) for _ in range(3)]
        wait_in_flight(running, 3)
        assert running.stop(number) == 0
        assert [call.result().status for call in calls] == [200, 200, 200]
    assert len(stopped.read_text().split()) == int(workers)


def test_a_draining_server_is_alive_but_not_ready(server):
    with server() as running, concurrent.futures.ThreadPoolExecutor(2) as pool:
        running.wait_ready("model")
        call = pool.submit(running.predict, {"instances": ["sleep", 2]})
        wait_in_flight(running)
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Stopping" in running.text())
        response = running.get("/v1/models/model")
        assert response.status == 503
        assert response.json() == {
            "error": "Model with name model is not ready. The server is shutting down."
        }
        assert response.headers["Connection"] == "close"
        assert call.result().status == 200
        assert running.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_grace_period_ends(server, workers):
    with server("--workers", workers, "--grace_period", "0.5") as running:
        running.wait_ready("model")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            call = pool.submit(running.predict, {"instances": ["sleep", 60]}, timeout_s=90)
            wait_in_flight(running)
            started = time.monotonic()
            running.stop()
            assert time.monotonic() - started < 20
            with pytest.raises((ConnectionError, OSError)):
                call.result()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_ends_at_once(server, workers):
    with server("--workers", workers) as running:
        running.wait_ready("model")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            call = pool.submit(running.predict, {"instances": ["sleep", 60]}, timeout_s=90)
            wait_in_flight(running)
            running.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Stopping" in running.text())
            started = time.monotonic()
            running.stop(signal.SIGTERM)
            assert time.monotonic() - started < 10
            with pytest.raises((ConnectionError, OSError)):
                call.result()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_stopping_while_a_model_loads(server, workers):
    with server("--workers", workers, LOAD="slow") as running:
        assert running.get("/").status == 200
        started = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - started < 10  # load() would take 20 s


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_under_load_loses_no_accepted_request(server, workers):
    """Keep-alive clients ask in a closed loop; each request that was sent is answered right."""
    with server("--workers", workers) as running:
        running.wait_ready("model")
        answered, lost = [0] * 8, []

        def client(number):
            while True:
                try:
                    connection = socket.create_connection(("127.0.0.1", running.port), timeout=20)
                except ConnectionRefusedError:
                    return  # the server has stopped listening: nothing was sent
                with connection:
                    while True:
                        outcome = ask(connection)
                        if outcome == "lost":
                            lost.append(number)
                            return
                        answered[number] += 1
                        if outcome == "closed":
                            break

        def ask(connection):
            body = b'{"instances": ["answer"]}'
            head = b"POST /v1/models/model:predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
            try:
                connection.sendall(head % len(body) + body)
                answer = b""
                while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
                    piece = connection.recv(65536)
                    if not piece:
                        return "lost"
                    answer += piece
            except ConnectionError:
                return "lost"
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert b'"predictions":["answer"]' in answer
            return "closed" if b"Connection: close" in answer else "open"

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client, number) for number in range(8)]
            wait_until(lambda: min(answered) > 50)
            assert running.stop() == 0
            for done in clients:
                done.result()
        assert lost == []


def test_keep_alive_serves_several_requests_on_one_connection(zoo):
    connection = http.client.HTTPConnection("127.0.0.1", zoo.port, timeout=10)
    for number in range(3):
        connection.request("POST", "/v1/models/echo:predict", f'{{"instances": [{number}]}}')
        response = connection.getresponse()
        assert response.read() == b'{"predictions":[%d]}' % number
        assert not response.will_close
    connection.close()


def test_request_helper_reports_a_refused_connection():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        request(port, "GET", "/")

"""What can be seen: metrics that are right over all workers, and stay so when one dies (row 58)."""

import contextlib
import http.client
import os
import signal
import socket
import threading

import pytest
from harness import serving, wait_until
from prometheus_client.parser import text_string_to_metric_families
from wire import connect, post, read_answer

GONE = (OSError, http.client.HTTPException)
GOOD = {"instances": [1]}
BODY = b'{"instances":[1]}'


@pytest.fixture
def measured(programs, tmp_path):
    """``with measured("--workers", "2") as server``: programs/measured.py, ready."""

    @contextlib.contextmanager
    def start(*flags, **more):
        env = more | {"BROKEN": str(tmp_path / "broken"), "GATE": str(tmp_path / "gate")}
        with serving([programs / "measured.py", *flags], tmp_path / "log", env=env) as server:
            yield server.wait_ready("hooks", "flaky")
            (tmp_path / "gate").touch()

    return start


class Page:
    """The metrics as Prometheus reads them."""

    def __init__(self, server):
        response = server.get("/metrics")
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        self.text = response.body.decode()
        self.samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        }

    def value(self, name, **labels):
        """One sample; 0 if it is not there, as ``rate`` and ``sum`` see it."""
        return self.samples.get((name, *sorted(labels.items())), 0)

    def requests(self, status, model="hooks", verb="predict"):
        return self.value("modelserver_requests_total", model=model, verb=verb, status=str(status))

    def series(self):
        return set(self.samples)


def seen(server, what, expected, **labels):
    """Wait until a value is shown."""
    wait_until(lambda: Page(server).value(what, **labels) == expected, what=f"{what} {labels} = {expected}")


def answered(server, status, expected, model="hooks", verb="predict"):
    """Wait until so many are shown: an answer is counted when it is sent, and its client may be quicker."""
    labels = {"model": model, "verb": verb, "status": str(status)}
    seen(server, "modelserver_requests_total", expected, **labels)


def both_ready(server):
    seen(server, "modelserver_workers_ready", 2)
    seen(server, "modelserver_model_ready", 2, model="hooks")


class Connections:
    """Connections that are kept, to as many workers as there are."""

    def __init__(self, server, count):
        self.port = server.port
        self.socks = [connect(server.port) for _ in range(count)]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for sock in self.socks:
            sock.close()

    def reach_both(self):
        """Connect until both workers answer: a busy machine may give one of them all that come at once."""

        def reached():
            self.socks.append(connect(self.port))
            return len({worker_of(answer) for answer in self.ask()}) == 2

        wait_until(reached, what="an answer from each worker")

    def ask(self, model="hooks", verb="predict"):
        """Send one request on each, and return the answers."""
        self.send(model, verb)
        return [read_answer(sock) for sock in self.socks]

    def send(self, model="hooks", verb="predict"):
        for sock in self.socks:
            sock.sendall(post(BODY, f"/v1/models/{model}:{verb}"))

    def answers_of(self, path):
        """GET on each: both workers are asked."""
        for sock in self.socks:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        return [read_answer(sock, "GET") for sock in self.socks]


def worker_of(answer):
    return int(answer.body.split(b'"pid":')[1].rstrip(b"}"))


# row 58
def test_made_up_names_and_paths_are_one_label_and_the_page_stays_as_it_is(measured):
    with measured("--workers", "2") as server:
        both_ready(server)

        def ask_made_up(numbers):
            with Connections(server, 4) as connections:
                for number in numbers:
                    name = f"made-up-{number}-%22%7D%0Ainjected"
                    for answer in connections.ask(model=name):
                        assert answer.status == 404
                    for answer in connections.ask(model=name, verb="explain"):
                        assert answer.status == 404
                    for answer in connections.answers_of(f"/made-up/path/{number}?a={number}"):
                        assert answer.status == 404
                    for answer in connections.answers_of(f"/v1/models/{name}"):
                        assert answer.status == 404
                connections.ask()

        ask_made_up(range(2))
        answered(server, 404, 8, "unknown")
        answered(server, 404, 8, "unknown", "explain")
        answered(server, 404, 16, "unknown", "other")
        answered(server, 200, 4)
        before = Page(server)
        ask_made_up(range(100))
        answered(server, 404, 8 + 400, "unknown")
        answered(server, 404, 8 + 400, "unknown", "explain")
        answered(server, 404, 16 + 800, "unknown", "other")
        after = Page(server)
        assert after.series() == before.series()
        assert "made-up" not in after.text
        assert "injected" not in after.text
        models = {value for name, *labels in after.samples for key, value in labels if key == "model"}
        assert models == {"hooks", "gate", "joined", "flaky", "unknown"}
        assert after.value("modelserver_metrics_dropped_series_total") == 0
        assert len(after.text) < 1.1 * len(before.text)  # numbers get longer, nothing else


def test_every_worker_shows_the_sum_of_all(measured):
    with measured("--workers", "2") as server, Connections(server, 2) as connections:
        both_ready(server)
        connections.reach_both()
        asked = sum(range(3, len(connections.socks) + 1))  # one more connection each time
        asked += sum(len(connections.ask()) for _ in range(20))
        answered(server, 200, asked)
        line = f'modelserver_requests_total{{model="hooks",verb="predict",status="200"}} {asked}.0\n'
        for answer in connections.answers_of("/metrics"):  # from both workers
            assert line in answer.body.decode()
        page = Page(server)
        seconds = "modelserver_request_seconds"
        assert page.value(f"{seconds}_count", model="hooks", verb="predict") == page.requests(200) == asked
        assert page.value(f"{seconds}_bucket", model="hooks", verb="predict", le="+Inf") == asked
        assert 0 < page.value(f"{seconds}_sum", model="hooks", verb="predict") < 60
        for hook in ("preprocess", "predict", "postprocess"):
            assert page.value(f"request_{hook}_seconds_count", model_name="hooks") == asked
        assert page.value("request_explain_seconds_count", model_name="hooks") == 0
        assert page.value("modelserver_workers") == 2
        workers = {dict(labels)["worker"] for name, *labels in page.samples if name == "process_open_fds"}
        assert workers == {"supervisor", "0", "1"}


def test_counts_survive_the_death_of_a_worker(measured):
    with measured("--workers", "2") as server:
        both_ready(server)
        with Connections(server, 4) as connections:
            workers = [worker_of(answer) for answer in connections.ask()]
            killed = workers[0]
            left = sum(worker != killed for worker in workers)
            for _ in range(24):
                connections.ask()
            answered(server, 200, 100)
            connections.send("gate")  # in hand when it dies
            seen(server, "modelserver_queue_length", 4, model="gate")
            seen(server, "modelserver_requests_in_flight", 4)
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: killed not in server.workers(), what="its end is seen")
            seen(server, "modelserver_worker_restarts_total", 1)
            page = Page(server)
            assert page.requests(200) == 100
            assert page.value("request_predict_seconds_count", model_name="hooks") == 100
            assert page.value("modelserver_queue_length", model="gate") == left
            assert page.value("modelserver_requests_in_flight") == left
        both_ready(server)
        with Connections(server, 4) as connections:  # the one that took its place counts on
            assert killed not in {worker_of(answer) for answer in connections.ask()}
        answered(server, 200, 104)


def test_no_count_ever_falls_while_workers_are_killed(measured):
    with measured("--workers", "2") as server:
        both_ready(server)
        stop = threading.Event()

        def clients():
            while not stop.is_set():
                with contextlib.suppress(*GONE):
                    server.predict(GOOD, "hooks")

        threads = [threading.Thread(target=clients) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            before = Page(server)
            for restarts in range(1, 4):
                os.kill(server.workers()[0], signal.SIGKILL)

                def has_restarted(restarts=restarts):
                    nonlocal before
                    with contextlib.suppress(*GONE):
                        page = Page(server)
                        for key, value in before.samples.items():
                            if key[0].endswith(("_total", "_count")) and not key[0].startswith("process_"):
                                assert page.samples[key] >= value, key
                        before = page
                    ready = before.value("modelserver_workers_ready")
                    return before.value("modelserver_worker_restarts_total") >= restarts and ready == 2

                wait_until(has_restarted, 60, f"{restarts} restarts")
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_counts_survive_a_rolling_restart(measured):
    """The new workers run the script again, and get the memory by its descriptor."""
    with measured("--workers", "2") as server:
        both_ready(server)
        with Connections(server, 4) as connections:
            connections.ask()
        old = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers()) == 2 and not old & set(server.workers()), 60, "new workers")
        both_ready(server)
        answered(server, 200, 4)
        with Connections(server, 4) as connections:
            connections.ask()
        answered(server, 200, 8)


def test_what_waits_is_shown_by_every_worker_and_gone_when_answered(measured, tmp_path):
    with measured("--workers", "2") as server, Connections(server, 6) as connections:
        both_ready(server)
        connections.send("gate")
        seen(server, "modelserver_queue_length", 6, model="gate")
        seen(server, "modelserver_requests_in_flight", 6)
        seen(server, "modelserver_connections", 7)  # and the page's
        (tmp_path / "gate").touch()
        for sock in connections.socks:
            assert read_answer(sock).status == 200
        seen(server, "modelserver_queue_length", 0, model="gate")
        seen(server, "modelserver_requests_in_flight", 0)
        page = Page(server)
        assert page.value("modelserver_queue_wait_seconds_count", model="gate") == 6
        assert page.value("modelserver_queue_wait_seconds_sum", model="gate") > 0


def test_sizes_of_batches(measured, tmp_path):
    with measured() as server, Connections(server, 5) as connections:
        connections.socks[0].sendall(post(BODY, "/v1/models/joined:predict"))
        seen(server, "modelserver_batch_size_count", 1, model="joined")
        for sock in connections.socks[1:]:
            sock.sendall(post(BODY, "/v1/models/joined:predict"))
        seen(server, "modelserver_queue_length", 5, model="joined")
        (tmp_path / "gate").touch()
        for sock in connections.socks:
            assert read_answer(sock).status == 200
        page = Page(server)
        assert page.value("modelserver_batch_size_sum", model="joined") == 5
        assert page.value("modelserver_batch_size_bucket", model="joined", le="1.0") == 1
        assert page.value("modelserver_batch_size_bucket", model="joined", le="4.0") == 2
        assert page.value("request_predict_seconds_count", model_name="joined") == 5
        assert page.value("modelserver_queue_wait_seconds_count", model="joined") == 5


def test_refused_late_and_forsaken_requests_are_counted(measured):
    with measured("--max_queue_size", "2", "--timeout", "4") as server:
        with Connections(server, 2) as connections:
            connections.send("gate")
            seen(server, "modelserver_queue_length", 2, model="gate")
            assert server.predict(GOOD, "gate").status == 503
            assert [read_answer(sock).status for sock in connections.socks] == [504, 504]
        answered(server, 504, 2, "gate")
        page = Page(server)
        assert page.value("modelserver_requests_shed_total", model="gate") == 1
        assert page.value("modelserver_requests_timed_out_total", model="gate") == 2
        assert (page.requests(503, "gate"), page.requests(504, "gate")) == (1, 2)
        with Connections(server, 1) as connections:
            connections.send("gate")
            seen(server, "modelserver_queue_length", 1, model="gate")
        seen(server, "modelserver_client_gone_total", 1, model="gate")
        answered(server, 499, 1, "gate")


def test_bytes_that_are_no_request_are_counted(measured):
    with measured("--max_buffer_size", "1000") as server:
        assert server.post("/v1/models/hooks:predict", b"x" * 2000).status == 413
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            sock.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
            assert read_answer(sock).status == 400
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 100_000 + b"\r\n\r\n")
            assert read_answer(sock).status == 431
        page = Page(server)
        assert page.value("modelserver_http_refused_total", status="400") == 1
        assert page.value("modelserver_http_refused_total", status="431") == 1
        assert page.requests(413) == 1  # that was a request, for a model
        seen(server, "modelserver_connections", 1)  # that of the page


def test_a_load_that_fails_is_named_until_one_succeeds(measured, tmp_path):
    with measured("--workers", "2") as server:
        both_ready(server)
        assert Page(server).value("modelserver_model_load_seconds", model="flaky") > 0
        labels = {"model": "flaky", "error": "ConnectionRefusedError"}
        (tmp_path / "broken").touch()
        killed = server.workers()[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: killed not in server.workers(), what="its end is seen")
        wait_until(
            lambda: Page(server).value("modelserver_model_load_failures_total", **labels) >= 2,
            what="two failed loads",
        )
        page = Page(server)
        assert page.value("modelserver_model_load_error", **labels) == 1
        assert page.value("modelserver_model_ready", model="flaky") == 1
        assert "secret" not in page.text
        (tmp_path / "broken").unlink()
        seen(server, "modelserver_model_load_error", 0, **labels)
        both_ready(server)


def test_one_worker_shows_the_same_page(measured):
    with measured() as server:
        for _ in range(3):
            server.predict(GOOD, "hooks")
        server.post("/v1/models/hooks:explain", GOOD)
        answered(server, 200, 3)
        answered(server, 200, 1, verb="explain")
        page = Page(server)
        assert page.value("request_explain_seconds_count", model_name="hooks") == 1
        assert page.value("modelserver_model_ready", model="hooks") == 1
        assert page.value("modelserver_workers") == 1
        assert page.value("modelserver_workers_ready") == 1
        assert page.value("process_resident_memory_bytes", worker="0") > 1e6


def test_metrics_need_no_disk(measured):
    with measured("--workers", "2", TMPDIR="/proc") as server:
        server.predict(GOOD, "hooks")
        answered(server, 200, 1)


def test_without_metrics_there_is_no_page(measured):
    with measured("--metrics", "false", "--workers", "2") as server:
        assert server.predict(GOOD, "hooks").status == 200
        assert server.get("/metrics").status == 404

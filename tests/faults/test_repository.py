"""Workers that are replaced, killed or ended by a model while an administrator loads and unloads (row 52)."""

import http.client
import json
import os
import signal
import threading

import pytest
from harness import serving, wait_until
from repositories import (
    ADMIN,
    READY,
    TOKEN,
    UNLOADED,
    Shelves,
    ask,
    everywhere,
    factors,
    index,
    order,
    ordered,
)
from versioned import killed, pytorch, ready, use


@pytest.fixture
def shelves(tmp_path):
    shelves = Shelves(tmp_path)
    shelves.plain("plain", 1)
    shelves.plain("other", 1)
    shelves.version("versioned", 1)
    shelves.shelf("shelved", 1)
    return shelves


def is_ready(server):
    return server.get("/v2/health/ready").status == 200


# row 1, 48
def test_orders_hold_in_workers_that_come_later(shelves):
    with shelves.served() as server:
        for name in ("plain", "versioned"):
            ordered(server, "unload", name)
        ordered(server, "load", "shelved")
        shelves.plain("other", 2)
        ordered(server, "load", "other")

        def check():
            for name in ("plain", "versioned"):
                assert factors(server, name) == {(503, f"Model with name {name} is not ready.")}
            assert factors(server, "shelved") == {(200, 1.0)}
            assert factors(server, "other") == {(200, 2.0)}
            found = index(server)
            assert found["plain", "1"] == found["versioned", "1"] == UNLOADED
            assert found["other", "1"] == found["shelved", "1"] == READY
            assert is_ready(server)

        for pid in server.workers():
            killed(server, pid)
        check()
        before = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not before & set(server.workers()), 120, "new workers")
        check()
        for name in ("plain", "versioned"):
            ordered(server, "load", name)
            assert factors(server, name) == {(200, 1.0)}
        assert len(everywhere(lambda: ask(server, "plain")[2])) == 2


# row 1, 48
def test_a_worker_that_is_killed_in_the_middle_of_an_order(shelves):
    with shelves.served() as server:
        folder = shelves.plain("plain", 2, load="slow")
        asked, answer = [], []

        def administer():
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
            connection.request("POST", "/v1/models/other:predict", b'{"instances": [[1.0]]}')
            asked.append(json.loads(connection.getresponse().read())["pid"])
            connection.request("POST", "/v2/repository/models/plain/load", b"{}", ADMIN)
            response = connection.getresponse()
            answer.extend((response.status, json.loads(response.read())))
            connection.close()

        asking = threading.Thread(target=administer)
        asking.start()
        wait_until(lambda: len(shelves.calls) == 2, what="both load")
        [other] = {int(line.split()[-1]) for line in shelves.calls} - set(asked)
        os.kill(other, signal.SIGKILL)
        wait_until(lambda: len(shelves.calls) == 3, what="its successor loads")
        assert answer == []
        (folder / "go").touch()
        asking.join(120)
        assert answer == [200, {"name": "plain", "load": True}]
        assert factors(server, "plain") == {(200, 2.0)}
        assert index(server)["plain", "1"] == READY
        assert is_ready(server)


# row 4, 5
def test_a_model_whose_load_kills_the_workers_takes_the_others_down_for_a_moment_only(shelves):
    with shelves.served() as server:
        shelves.plain("plain", 1, load="crash")
        with pytest.raises(ConnectionError):
            order(server, "load", "plain")  # the worker that was asked has died of it
        wait_until(lambda: server.text().count("Model plain: load failed") == 2, 60, "both have given up")
        ready(server, 4)
        assert factors(server, "other") == {(200, 1.0)}
        assert factors(server, "plain") == {(503, "Model with name plain is not ready.")}
        told = "The worker process died while it loaded this model."
        assert index(server)["plain", "1"] == ("UNAVAILABLE", told)
        assert not is_ready(server)
        shelves.plain("plain", 3)
        ordered(server, "load", "plain")
        assert factors(server, "plain") == {(200, 3.0)}
        assert is_ready(server)


# row 54
def test_what_is_unloaded_and_loaded_many_times_takes_no_more_memory(tmp_path):
    """Sixty megabytes beside the weights."""
    model = pytorch(tmp_path / "model", 1)
    code = (model / "model.py").read_text()
    heavier = "super().__init__()\n        self.ballast = b'x' * 60_000_000\n"
    (model / "model.py").write_text(code.replace("super().__init__()\n", heavier))
    env = {"MODELSERVER_ADMIN_TOKEN": TOKEN}
    flags = ["--enable_admin", "true"]
    with serving(["-m", "modelserver", f"m={model}", *flags], tmp_path / "log", env=env) as server:
        server.wait_ready("m")
        [worker] = server.workers()
        loaded, unloaded = [], []
        for _ in range(3):
            ordered(server, "load", "m")  # while it is loaded: both are there for a moment
            ordered(server, "unload", "m")
            ordered(server, "load", "m")
            loaded.append(use(worker))
            ordered(server, "unload", "m")
            wait_until(lambda: use(worker)[0] < loaded[-1][0] - 50, what="the memory is given back")
            unloaded.append(use(worker))
        for uses in (loaded, unloaded):
            assert uses[-1][0] < 1.15 * uses[0][0], uses
            assert uses[-1][1] <= uses[0][1] + 2, uses
            assert uses[-1][2] <= uses[0][2] + 2, uses

"""Versions of a program's own models: drained when they are slow or batched, told while they load."""

import concurrent.futures
import json
import os
import signal

import pytest
from harness import serving, wait_until
from versioned import QUICK, Steady, answer, own, put_own, states, take_away, wait_for


@pytest.fixture(params=["1", "2"], ids=["one worker", "two workers"])
def start(request, programs, tmp_path):
    """Starts programs/versions.py with models that have a version 1; gives the server and their folder."""

    def start(*names, **environment):
        base = tmp_path / "folders"
        for name in names:
            if "empty" in name:
                (base / name).mkdir(parents=True)
            else:
                put_own(base / name, 1, seconds=0.2 if "slow" in name else 0)
        flags = [*QUICK, "--workers", request.param]
        env = {"FOLDERS": str(base), "CALLS": str(tmp_path / "calls"), **environment}
        return serving([programs / "versions.py", *flags], tmp_path / "log", env=env), base

    return start


def loading(base):
    """Process ids of the workers that have begun to load a version that does something."""
    calls = base.parent / "calls"
    return [int(line.split()[-1]) for line in calls.read_text().splitlines()] if calls.exists() else []


def test_slow_and_batched_models_are_drained(start):
    running, base = start("slow", "batched_slow", "batched")
    with running as server:
        server.wait_ready("slow", "batched_slow", "batched")
        with (
            Steady(server, "slow", (1, 2), 3) as slow,
            Steady(server, "batched_slow", (1, 2), 12) as batched_slow,
            Steady(server, "batched", (1, 2), 4) as batched,
        ):
            for clients in (slow, batched_slow, batched):
                clients.wait_for(1, more=2)
            for name in ("slow", "batched_slow", "batched"):
                put_own(base / name, 2, seconds=0.2 if "slow" in name else 0)
            for clients in (slow, batched_slow, batched):
                clients.wait_for(2, more=2)
            for name in ("slow", "batched_slow", "batched"):
                wait_for(server, name, v2="AVAILABLE", v1="END")
                take_away(base / name, 2)
            for clients in (slow, batched_slow, batched):
                clients.wait_for(1, more=2)
        for clients in (slow, batched_slow, batched):
            clients.check(1, 2, 1)
        assert "still has work" not in server.text()


def test_what_is_told_while_a_version_loads(start):
    running, base = start("model", "empty")
    with running as server:
        server.wait_ready("model")
        workers = len(server.workers()) or 1
        if workers == 2:
            wait_until(lambda: server.text().count("is ready") == 2)
        folder = put_own(base / "model", 2, load="slow")
        wait_for(server, "model", v2="LOADING", v1="AVAILABLE")
        wait_until(lambda: len(loading(base)) == workers, what="every worker loads")
        status = server.get("/v1/models/model")
        assert (status.status, status.json()["ready"]) == (200, True)
        [told] = server.get("/v1/models/model/versions/2").json()["model_version_status"]
        assert told == {
            "version": "2", "state": "LOADING", "status": {"error_code": "OK", "error_message": ""}
        }  # fmt: skip
        assert server.get("/v1/models/model/versions/3").status == 404
        refused = server.post("/v1/models/model/versions/2:predict", {"instances": [[1.0]]})
        assert refused.status == 404
        assert answer(server, "model") == 1
        assert server.get("/v1/models/empty").status == 503  # the folder is empty, and the server is up
        put_own(base / "empty", 5)
        server.wait_ready("empty")  # one model's load holds up no other
        if workers == 2:  # one of them has it
            (folder / f"go-{loading(base)[0]}").touch()
            second = "/v1/models/model/versions/2:predict"
            wait_until(lambda: server.post(second, {"instances": [[1.0]]}).status == 200)
            assert {states(server, "model")[2] for _ in range(10)} == {"LOADING"}
        (folder / "go").touch()
        wait_for(server, "model", v2="AVAILABLE", v1="END")
        for _ in range(50):
            assert answer(server, "model", "/versions/2") == 2
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: answer(server, "model"), range(50))) == {2}


def test_labels_and_all_versions(start):
    labels = {"model": {"stable": 1, "canary": 2}}
    allowed = {"MODELSERVER_ALLOW_VERSION_LABELS_FOR_UNAVAILABLE_MODELS": "true"}
    running, base = start("model", POLICY="all", LABELS=json.dumps(labels), **allowed)
    with running as server:
        server.wait_ready("model")
        assert answer(server, "model", "/labels/stable") == 1
        early = server.post("/v1/models/model/labels/canary:predict", {"instances": [[1.0]]})
        assert (early.status, early.json()) == (
            400,
            {"error": "Unrecognized servable version label: canary"},
        )
        put_own(base / "model", 2)
        wait_for(server, "model", v1="AVAILABLE", v2="AVAILABLE")
        assert answer(server, "model", "/labels/canary") == 2
        assert answer(server, "model", "/labels/stable") == 1


def test_what_fails_to_load_is_told_and_tried_again(start):
    running, base = start("model")
    with running as server:
        server.wait_ready("model")
        with Steady(server, "model", (1, 3, 4)) as clients:
            put_own(base / "model", 2, load="raise")
            wait_for(server, "model", v2="END", v1="AVAILABLE")

            def told():
                [status] = server.get("/v1/models/model/versions/2").json()["model_version_status"]
                return status["status"]

            # One worker may have failed before the other begins: then the version is being loaded once more.
            failed = {"error_code": "INTERNAL", "error_message": "no good"}
            wait_until(lambda: told() == failed, what="the failure")
            take_away(base / "model", 2)
            put_own(base / "model", 3, load="not ready")
            wait_for(server, "model", v3="END", v1="AVAILABLE")
            take_away(base / "model", 3)
            put_own(base / "model", 3)
            clients.wait_for(3)
            begun = len(loading(base))
            folder = put_own(base / "model", 4, load="late")
            wait_until(lambda: len(loading(base)) >= begun + (len(server.workers()) or 1))
            own(folder, 4)  # it is complete while its first load still fails
            (folder / "go").touch()
            clients.wait_for(4, timeout_s=30)
        clients.check(1, 3, 4)


@pytest.mark.parametrize("start", ["2"], indirect=True)
def test_a_rolling_restart_serves_the_newest(start):
    """SIGHUP runs the program again: what has come and gone since it began is as it is now."""
    running, base = start("model")
    with running as server:
        wait_until(lambda: server.text().count("is ready") == 2)
        before = server.workers()
        with Steady(server, "model", (1, 2)) as clients:
            clients.wait_for(1)
            put_own(base / "model", 2)
            clients.wait_for(2)
            wait_for(server, "model", v2="AVAILABLE", v1="END")
            os.kill(server.process.pid, signal.SIGHUP)
            wait_until(lambda: not set(before) & set(server.workers()), 60, "new workers")
            wait_until(lambda: server.text().count("is ready") == 4, 60, "both ready")
            clients.stop.set()
        assert [heard[-1][0] for heard in clients.heard] == [2] * 4
        assert states(server, "model") == {2: "AVAILABLE"}
        assert {answer(server, "model") for _ in range(20)} == {2}

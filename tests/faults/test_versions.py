"""Versions that are half written, bad, fatal or gone, and workers that die over them (rows 51-53)."""

import http.client
import os
import shutil
import signal
import time

import pytest
from harness import serving, wait_until
from versioned import (
    QUICK,
    Steady,
    answer,
    heavy,
    killed,
    made,
    put,
    put_own,
    put_slowly,
    ready,
    states,
    take_away,
    use,
    wait_for,
)

GONE = (OSError, http.client.HTTPException)


@pytest.fixture
def base(tmp_path):
    """The folder of the versions of one model of programs/versions.py; it has version 1."""
    put_own(tmp_path / "folders" / "model", 1)
    return tmp_path / "folders" / "model"


@pytest.fixture
def start(programs, tmp_path, base):
    """Starts programs/versions.py."""

    def start(*flags, **environment):
        env = {"FOLDERS": str(base.parent), "CALLS": str(tmp_path / "calls"), **environment}
        return serving([programs / "versions.py", *QUICK, *flags], tmp_path / "log", env=env)

    return start


def loading(base):
    """Process ids of the workers that have begun to load a version that does something."""
    calls = base.parents[1] / "calls"
    return [int(line.split()[-1]) for line in calls.read_text().splitlines()] if calls.exists() else []


# row 52
def test_a_killed_worker_comes_back_with_the_newest_version(start, base):
    with start("--workers", "2") as server:
        ready(server)
        put_own(base, 2)
        wait_for(server, "model", v2="AVAILABLE", v1="END")
        killed(server, server.workers()[0])
        wait_for(server, "model", v2="AVAILABLE")
        assert {answer(server, "model") for _ in range(20)} == {2}


# row 52
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_worker_comes_back_with_the_last_good_version(start, base, workers):
    with start("--workers", workers, "--supervise", "true") as server:
        ready(server, int(workers))
        put_own(base, 2)
        wait_for(server, "model", v2="AVAILABLE", v1="END")
        put_own(base, 3, load="raise")
        wait_for(server, "model", v3="END", v2="AVAILABLE")
        for pid in server.workers():
            killed(server, pid)
        assert {answer(server, "model") for _ in range(20)} == {2}
        wait_for(server, "model", v3="END", v2="AVAILABLE")
        assert "Model model: version 2 is served, since none that is newer can be" in server.text()
        assert "Version 3 of model model cannot be loaded: " in server.text()


# row 1, 52
def test_a_worker_that_is_killed_in_the_middle_of_a_swap(start, base):
    with start("--workers", "2") as server:
        ready(server)
        folder = put_own(base, 2, load="slow")
        wait_until(lambda: len(loading(base)) == 2, what="both load")
        os.kill(loading(base)[0], signal.SIGKILL)
        assert {answer(server, "model") for _ in range(20)} == {1}  # the other one goes on
        assert states(server, "model") == {2: "LOADING", 1: "AVAILABLE"}
        (folder / "go").touch()
        wait_for(server, "model", v2="AVAILABLE", v1="END")
        ready(server, 3)
        wait_for(server, "model", v2="AVAILABLE")
        for _ in range(50):
            assert answer(server, "model", "/versions/2") == 2


# row 1, 53
def test_a_label_whose_version_is_gone_keeps_no_worker_from_starting(start, base):
    put_own(base, 2)
    with start("--supervise", "true", POLICY="all", LABELS='{"model": {"canary": 2}}') as server:
        ready(server, 1)
        assert answer(server, "model", "/labels/canary") == 2
        take_away(base, 2)
        wait_for(server, "model", v2="END", v1="AVAILABLE")
        killed(server, server.workers()[0])
        assert answer(server, "model") == 1
        assert server.post("/v1/models/model/labels/canary:predict", {"instances": [[1.0]]}).status == 400
        assert "the label canary is for version 2, which is not available" in server.text()


# row 4, 5, 52
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_version_whose_load_kills_the_worker(start, base, workers):
    with start("--workers", workers, "--supervise", "true") as server:
        ready(server, int(workers))
        folder = put_own(base, 2, load="crash")
        wait_until(lambda: len(loading(base)) >= int(workers), what="each worker has died once")
        ready(server, 2 * int(workers))
        wait_for(server, "model", v1="AVAILABLE", v2="END")
        assert {answer(server, "model") for _ in range(20)} == {1}
        calls = len(loading(base))
        with Steady(server, "model", (1, 3)) as clients:
            clients.wait_for(1, more=200)
            assert len(loading(base)) == calls  # it is not tried again and again
            shutil.rmtree(folder)
            put_own(base, 3)
            clients.wait_for(3)
        clients.check(1, 3)


# row 9, 52
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_load_that_hangs(start, base, workers):
    with start("--workers", workers, "--timeout", "1") as server:
        server.wait_ready("model")
        if workers == "2":
            ready(server)
        before = server.workers()
        with Steady(server, "model", (1,)) as clients:
            put_own(base, 2, load="hang")
            wait_for(server, "model", v2="LOADING", v1="AVAILABLE")
            begun = time.monotonic()
            wait_until(lambda: time.monotonic() - begun > 3)  # longer than a call may take
            clients.wait_for_more()
        clients.check(1)
        assert server.workers() == before
        assert server.stop(timeout_s=20) == 0


# row 51
def test_a_copy_that_goes_on_is_not_even_tried(tmp_path):
    """With looks a second apart, as they are by default."""
    base = tmp_path / "model"
    put(made("pytorch", 1, tmp_path), base, 1)
    with serving(["-m", "modelserver", base], tmp_path / "log") as server:
        server.wait_ready("model")
        put_slowly(made("pytorch", 2, tmp_path), base, 2, 0.6, lambda: 2 not in states(server, "model"))
        wait_for(server, "model", v2="AVAILABLE", v1="END")
        assert answer(server, "model") == 2
        assert "cannot be loaded" not in server.text()


# row 53
def test_numbers_decide_and_not_times(start, base):
    with start() as server:
        server.wait_ready("model")
        with Steady(server, "model", (1, 2, 3)) as clients:
            put_own(base, 3)
            clients.wait_for(3)
            old = put_own(base, 2)
            os.utime(old / "model.json", (2e9, 2e9))  # in the year 2033
            os.utime(base / "3" / "model.json", (0, 0))
            begun = clients.right
            wait_until(lambda: clients.right > begun + 300)
            take_away(base, 3)
            clients.wait_for(2)
            shutil.rmtree(base)
            wait_until(lambda: "the folder of model model cannot be read" in server.text())
            clients.wait_for_more()
        clients.check(1, 3, 2)


# row 36, 52
def test_requests_that_fail_after_upgrades_kill_no_worker(trained_pytorch, tmp_path):
    """A frozen program whose operator fails once made torch read freed memory, mostly after an upgrade."""
    base = tmp_path / "model"
    put(trained_pytorch.folder / "frozen", base, 1)
    with serving(["-m", "modelserver", base, *QUICK], tmp_path / "log") as server:
        server.wait_ready("model")
        before = server.workers()
        for number in range(2, 6):
            put(trained_pytorch.folder / "frozen", base, number)
            wait_for(server, "model", **{f"v{number}": "AVAILABLE", f"v{number - 1}": "END"})
            for _ in range(20):
                assert server.predict({"instances": [[1.0, 2.0, 3.0, 4.0]]}).status == 200
                assert server.predict({"instances": [[1.0] * 97]}).status == 400
        assert server.workers() == before


# row 54, 55
@pytest.mark.parametrize("kind", ["pytorch", "tensorflow"])
def test_what_is_unloaded_gives_its_memory_back(kind, tmp_path):
    """Sixty megabytes, swapped six times under traffic."""
    base = tmp_path / "model"
    models = [heavy(kind, tmp_path / f"{kind}-{factor}", factor) for factor in (1, 2)]
    put(models[0], base, 1)
    with serving(["-m", "modelserver", base, *QUICK], tmp_path / "log") as server:
        server.wait_ready("model")
        uses = []
        with Steady(server, "model", (1.0, 2.0), 2) as clients:
            for number in range(2, 9):
                put(models[1 - number % 2], base, number)
                wait_for(server, "model", **{f"v{number}": "AVAILABLE", f"v{number - 1}": "END"})
                clients.wait_for(2.0 - number % 2)
                shutil.rmtree(base / f"{number - 1}")
                uses.append(use(server.workers()[0]))
        assert clients.wrong == []
        first, last = uses[0], uses[-1]
        assert last[0] < 1.3 * first[0], uses
        assert last[1] <= first[1] + 2, uses
        assert last[2] <= first[2] + 2, uses

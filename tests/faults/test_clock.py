"""The clock of the day jumps: nothing waits for it, so nothing expires early and nothing hangs."""

import ast
import email.utils
import time
from pathlib import Path

import pytest
from harness import serving, wait_until
from wire import GOOD, GOOD_ANSWER, bystanders, connect, head, post, read_answer, serving_pids, until_closed

DAY_S = 86_400
PACKAGES = Path(__file__).resolve().parents[2]
OF_THE_DAY = {"time", "time_ns", "localtime", "gmtime", "ctime", "now", "utcnow", "today", "CLOCK_REALTIME"}


def move_clock(sock, seconds):
    sock.sendall(post(b'{"instances":[%d]}' % seconds, "/v1/models/clock:predict"))
    assert read_answer(sock).status == 200


def day_of(sock):
    """The Date of an answer, in seconds since 1970."""
    sock.sendall(post(GOOD))
    answer = read_answer(sock)
    assert (answer.status, answer.body) == (200, GOOD_ANSWER)
    return email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()


# row 56
@pytest.mark.parametrize(
    ("jump_s", "workers"),
    [(DAY_S, 1), (-DAY_S, 1), (DAY_S, 2)],
    ids=["a day ahead", "a day back", "a day ahead, two workers"],
)
def test_the_clock_jumps_by_a_day(programs, tmp_path, jump_s, workers):
    flags = ["--workers", workers, "--timeout_keep_alive", "3", "--timeout", "30"]
    calls = tmp_path / "calls"
    with serving([programs / "endured.py", *flags], tmp_path / "log", env={"CALLS": str(calls)}) as server:
        server.wait_ready("echo")
        if workers > 1:
            wait_until(lambda: server.text().count("is ready") == workers, what="both workers ready")
        pids = serving_pids(server)
        clients = [connect(server.port) for _ in range(4 * workers)]
        owners = {}
        for sock in clients:
            sock.sendall(post(GOOD, "/v1/models/who:predict"))
            owners.setdefault(read_answer(sock).body, sock)
        assert len(owners) == workers
        waiting = [sock for sock in clients if sock not in owners.values()]
        for sock in waiting:  # in flight, or queued behind the first, while the clock jumps
            sock.sendall(post(b'{"instances":[7]}', "/v1/models/gate:predict"))
        in_head = connect(server.port)
        in_head.sendall(head()[:40])
        idle = connect(server.port)
        with bystanders(server):
            idle.sendall(post(GOOD))
            assert read_answer(idle).body == GOOD_ANSWER
            started = time.monotonic()
            for sock in owners.values():
                move_clock(sock, jump_s)
            for sock in owners.values():  # it has jumped for the server, too
                assert abs(day_of(sock) - time.time() - jump_s) < 600
            assert until_closed(idle) == b""  # expired when its time was up, neither at once nor never
            assert 2 < time.monotonic() - started < 30
            in_head.sendall(head()[40:-2] + b"Content-Length: 17\r\n\r\n" + GOOD)
            assert read_answer(in_head).body == GOOD_ANSWER
            calls.with_suffix(".open").touch()
            assert [read_answer(sock).status for sock in waiting] == [200] * len(waiting)
        assert serving_pids(server) == pids
        assert not [line for line in server.text().splitlines() if " ERROR " in line or "Traceback" in line]
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 20
        for sock in (*clients, in_head, idle):
            sock.close()


# row 56
def test_nothing_is_timed_by_the_clock_of_the_day():
    """Every place that reads it is known, and shows it to people."""
    shown = {
        "modelserver/rest/answers.py",  # Date
        "modelserver/access_log.py",  # a line's time
        "modelserver/log_formats.py",
        "modelserver/client/patience.py",  # a Retry-After that is a date
    }
    found = set()
    for path in [*PACKAGES.glob("modelserver/**/*.py"), *PACKAGES.glob("servers/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in OF_THE_DAY:
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                if owner in ("time", "datetime", "date"):
                    found.add(str(path.relative_to(PACKAGES)))
    assert found <= shown

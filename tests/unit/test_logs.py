"""The access log: by its short way where nobody has changed logging, by ``logging`` where somebody has."""

import asyncio
import contextlib
import io
import logging
import re
from datetime import datetime, timedelta
from types import SimpleNamespace

import orjson
import pytest

from modelserver import access_log, logs

CONNECTION = SimpleNamespace(context=SimpleNamespace(remote_ip="10.0.0.7"), request_id="a-1")
LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ INFO modelserver\.access: "
NAMES = ("modelserver", "modelserver.access", "asyncio", "tornado")


@pytest.fixture
def fresh(monkeypatch):
    """Logging as in a new process; what is written to standard error."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    for name in NAMES:
        logger = logging.getLogger(name)
        for attribute, value in {"handlers": [], "filters": [], "level": 0, "propagate": True}.items():
            monkeypatch.setattr(logger, attribute, value)
    _forget_levels()
    yield io.StringIO()
    _forget_levels()


def _forget_levels():
    logging.getLogger().manager._clear_cache()


def configure(stream, log_format="text"):
    """As in a program that has set up no logging: pytest's own handlers are out of the way."""
    root = logging.getLogger()
    others, root.handlers[:] = root.handlers[:], []
    with contextlib.redirect_stderr(stream):
        logs.configure(log_format)
    root.handlers[:] = others


def add(log, uri="/v1/models/m:predict", times=1, **more):
    for _ in range(times):
        log.add(CONNECTION, "POST", uri, 200, 0.0123, **more)


def test_lines_are_those_that_logging_writes(fresh):
    async def main():
        log = access_log.AccessLog()
        add(log)
        log.flush()

    configure(fresh)
    asyncio.run(main())
    logging.getLogger("modelserver.access").info("10.0.0.7 POST /v1/models/m:predict 200 12.30ms a-1")
    ours, theirs = fresh.getvalue().splitlines()
    assert re.fullmatch(LINE + r"10\.0\.0\.7 POST /v1/models/m:predict 200 12\.30ms a-1", ours)
    assert ours[23:] == theirs[23:]  # but for the time


def test_lines_wait_together_for_a_moment(fresh):
    async def main():
        log = access_log.AccessLog()
        add(log, times=3)
        assert fresh.getvalue() == ""
        await asyncio.sleep(2 * log.DELAY_S)
        assert fresh.getvalue().count("\n") == 3
        add(log)
        await asyncio.sleep(2 * log.DELAY_S)
        assert fresh.getvalue().count("\n") == 4

    configure(fresh)
    asyncio.run(main())


def test_many_lines_do_not_wait(fresh):
    async def main():
        add(access_log.AccessLog(), times=1001)
        assert fresh.getvalue().count("\n") == 1000

    configure(fresh)
    asyncio.run(main())


@pytest.mark.parametrize(
    ("uri", "written"),
    [
        ("/a\r\n2026 forged", r"/a\r\n2026 forged"),
        ("/\x1b[31m", r"/\x1b[31m"),
        ("/ä", r"/\xe4"),
        ("/a\\n", r"/a\\n"),
    ],
)
def test_a_clients_text_cannot_forge_a_line(fresh, uri, written):
    async def main():
        log = access_log.AccessLog()
        add(log, uri)
        log.flush()

    configure(fresh)
    asyncio.run(main())
    (line,) = fresh.getvalue().splitlines()
    assert f"POST {written} 200" in line


def test_a_broken_stream_stops_nothing(fresh, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    async def main():
        log = access_log.AccessLog()
        add(log)
        log.flush()
        add(log)
        log.flush()

    monkeypatch.setattr(logging, "raiseExceptions", False)
    configure(Broken())
    asyncio.run(main())


class Keeps(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append((record.name, record.levelname, record.getMessage()))


def handler_of_root(keeps):
    logging.getLogger().addHandler(keeps)
    logging.getLogger("modelserver").setLevel(logging.INFO)


def handler_of_its_own(keeps):
    configure(io.StringIO())
    logging.getLogger("modelserver.access").addHandler(keeps)


def second_handler(keeps):
    configure(io.StringIO())
    logging.getLogger("modelserver").addHandler(keeps)


def handed_on(keeps):
    configure(io.StringIO())
    logging.getLogger("modelserver").propagate = True
    logging.getLogger().addHandler(keeps)


@pytest.mark.parametrize("set_up", [handler_of_root, handler_of_its_own, second_handler, handed_on])
def test_a_programs_own_logging_gets_records(fresh, set_up):
    keeps = Keeps()
    set_up(keeps)
    add(access_log.AccessLog())  # and needs no event loop
    assert keeps.messages == [
        ("modelserver.access", "INFO", "10.0.0.7 POST /v1/models/m:predict 200 12.30ms a-1")
    ]


def silenced():
    logging.getLogger("modelserver.access").setLevel(logging.WARNING)


def filtered():
    logging.getLogger("modelserver.access").addFilter(lambda record: False)


def handler_filtered():
    logging.getLogger("modelserver").handlers[0].addFilter(lambda record: False)


@pytest.mark.parametrize("change", [silenced, filtered, handler_filtered])
def test_what_is_turned_off_is_not_written(fresh, change):
    async def main():
        log = access_log.AccessLog()
        add(log)
        log.flush()

    configure(fresh)
    change()
    asyncio.run(main())
    assert fresh.getvalue() == ""


def test_another_format_is_kept(fresh):
    async def main():
        log = access_log.AccessLog()
        add(log)
        log.flush()

    configure(fresh)
    logging.getLogger("modelserver").handlers[0].setFormatter(logging.Formatter("<%(message)s>"))
    asyncio.run(main())
    assert fresh.getvalue() == "<10.0.0.7 POST /v1/models/m:predict 200 12.30ms a-1>\n"


# -- JSON

HOSTILE = ('"quotes"\\', "\r\n2026 forged", "\x1b[31m\x9b\x7f\x00", "ä\u202e\u2028", "\udc80\ud800", "{}%s{")


def written(stream):
    """The lines, each read by a strict parser."""
    lines = stream.getvalue().splitlines()
    assert all(line.isascii() and line.isprintable() for line in lines)
    return [orjson.loads(line) for line in lines]


@pytest.mark.parametrize("text", HOSTILE)
def test_an_access_line_is_json_whatever_a_client_sends(fresh, text):
    async def main():
        log = access_log.AccessLog()
        add(log, f"/{text}", model_name=text)
        log.add(CONNECTION, text, "/", 404, 1.5)
        log.flush()

    configure(fresh, "json")
    asyncio.run(main())
    line, other = written(fresh)
    assert abs(datetime.fromisoformat(line.pop("time")) - datetime.now().astimezone()) < timedelta(minutes=1)
    assert line.pop("pid") > 0
    assert line == {
        "level": "INFO",
        "logger": "modelserver.access",
        "remote": "10.0.0.7",
        "method": "POST",
        "path": f"/{text}".encode("utf-8", "backslashreplace").decode(),
        "model": text.encode("utf-8", "backslashreplace").decode(),
        "status": 200,
        "seconds": 0.0123,
        "request_id": "a-1",
    }
    assert other["status"] == 404
    assert "model" not in other


@pytest.mark.parametrize("text", HOSTILE)
def test_a_record_is_json_whatever_is_in_it(fresh, text):
    configure(fresh, "json")
    log = logging.getLogger("modelserver.model")
    log.warning("said: %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed", stack_info=True, extra={"request_id": "a-2"})
    said, failed = written(fresh)
    assert said["message"] == "said: " + text.encode("utf-8", "backslashreplace").decode()
    assert (said["level"], said["logger"], "exception" in said) == ("WARNING", "modelserver.model", False)
    assert datetime.fromisoformat(failed["time"]).tzinfo is not None
    assert (failed["request_id"], failed["message"]) == ("a-2", "failed")
    assert failed["exception"].startswith("Traceback (most recent call last):\n")
    assert "Stack (most recent call last)" in failed["exception"]


def test_the_parts_of_the_server_that_are_others_write_json_too(fresh):
    configure(fresh, "json")
    logging.getLogger("asyncio").error("from asyncio")
    logging.getLogger("tornado.general").warning("from tornado")
    assert [line["message"] for line in written(fresh)] == ["from asyncio", "from tornado"]


# -- text


@pytest.mark.parametrize("text", HOSTILE)
def test_nobody_forges_a_line_of_text(fresh, text):
    configure(fresh)
    log = logging.getLogger("modelserver.model")
    log.warning("said: %s", text)
    try:
        raise ValueError(f"{text}\n2026-01-01 00:00:00,000 1 INFO modelserver.server: forged")
    except ValueError:
        log.exception("failed")
    lines = fresh.getvalue().splitlines()
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert [line.split()[5] for line in lines if not line.startswith("  ")] == ["said:", "failed"]
    assert lines[2] == "  Traceback (most recent call last):"


def test_very_long_texts_are_cut(fresh):
    async def main():
        log = access_log.AccessLog()
        add(log, "/" + "x" * 60_000)
        log.flush()

    configure(fresh)
    asyncio.run(main())
    logging.getLogger("modelserver.model").warning("y" * 1_000_000)
    access, warning = fresh.getvalue().splitlines()
    assert len(access) < 1200
    assert access.endswith("xxx... 200 12.30ms a-1")
    assert len(warning) < 70_000
    assert warning.endswith("yyy ... (934464 characters are left out)")


def test_a_record_that_cannot_be_formatted_stops_nothing(fresh):
    class Mute:
        def __str__(self):
            raise RuntimeError

    configure(fresh)
    logging.getLogger("modelserver.server").info("%d", "no number")
    logging.getLogger("modelserver.server").info("%s", Mute())
    assert [line.rpartition(": ")[2] for line in fresh.getvalue().splitlines()] == [
        "TypeError",
        "RuntimeError",
    ]


# -- probes


def probe(log, status, uri="/v1/models/m"):
    log.add(CONNECTION, "GET", uri, status, 0.001, is_muted_probe=True)


def statuses(stream):
    return [int(line.split()[8]) for line in stream.getvalue().splitlines()]


def test_probes_are_told_where_they_are_news(fresh, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(access_log.time, "monotonic", lambda: now[0])

    async def main():
        log = access_log.AccessLog()
        for status in (200, 200, 503, 503, 200, 200, 503, 404):
            probe(log, status)
        probe(log, 503, "/other")
        now[0] += 9.9
        probe(log, 404)
        now[0] += 0.2
        probe(log, 404)
        probe(log, 404)
        log.flush()

    configure(fresh)
    asyncio.run(main())
    assert statuses(fresh) == [503, 200, 503, 404, 503, 404]


def test_probes_for_made_up_names_are_not_remembered_for_ever(fresh):
    async def main():
        log = access_log.AccessLog()
        for number in range(5000):
            probe(log, 404, f"/v1/models/{number}")
        assert len(log._probes._failures) <= 1024
        log.flush()

    configure(fresh)
    asyncio.run(main())
    assert len(statuses(fresh)) == 5000


# -- the limit on lines


def limited(**limits):
    told = []
    return told, logs.RateLimited(
        lambda count, kind, period_s: told.append((count, kind, period_s)), **limits
    )


def test_a_flood_is_counted_and_the_count_told_when_the_period_is_over():
    async def main():
        told, lines = limited(most=3, period_s=0.05)
        assert [lines.admits("a") for _ in range(1000)] == [True] * 3 + [False] * 997
        assert lines.admits("b")
        while not told:
            await asyncio.sleep(0)
        assert told == [(997, "a", 0.05)]
        assert lines.admits("a")

    asyncio.run(main())


def test_without_a_loop_the_count_is_told_with_the_next_line(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    told, lines = limited(most=2)
    assert [lines.admits("a") for _ in range(5)] == [True, True, False, False, False]
    assert told == []
    now[0] = 10.0
    assert lines.admits("a")
    assert told == [(3, "a", 10.0)]


def test_kinds_without_end_are_bounded_and_none_is_forgotten():
    told, lines = limited(most=1)
    for number in range(1000):
        assert lines.admits(f"kind {number}")
        assert not lines.admits(f"kind {number}")
    assert len(lines._periods) <= 256
    assert len(told) + len(lines._periods) == 1000

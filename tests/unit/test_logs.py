"""The access log: by its short way where nobody has changed logging, by ``logging`` where somebody has."""

import asyncio
import contextlib
import io
import logging
import re
from types import SimpleNamespace

import pytest

from modelserver import logs

CONNECTION = SimpleNamespace(context=SimpleNamespace(remote_ip="10.0.0.7"))
LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ INFO modelserver\.access: "
NAMES = ("modelserver", "modelserver.access")


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


def configure(stream):
    """As in a program that has set up no logging: pytest's own handlers are out of the way."""
    root = logging.getLogger()
    others, root.handlers[:] = root.handlers[:], []
    with contextlib.redirect_stderr(stream):
        logs.configure()
    root.handlers[:] = others


def add(log, uri="/v1/models/m:predict", times=1):
    for _ in range(times):
        log.add(CONNECTION, "POST", uri, 200, 0.0123)


def test_lines_are_those_that_logging_writes(fresh):
    async def main():
        log = logs.AccessLog()
        add(log)
        log.flush()

    configure(fresh)
    asyncio.run(main())
    logging.getLogger("modelserver.access").info("10.0.0.7 POST /v1/models/m:predict 200 12.30ms")
    ours, theirs = fresh.getvalue().splitlines()
    assert re.fullmatch(LINE + r"10\.0\.0\.7 POST /v1/models/m:predict 200 12\.30ms", ours)
    assert ours[23:] == theirs[23:]  # but for the time


def test_lines_wait_together_for_a_moment(fresh):
    async def main():
        log = logs.AccessLog()
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
        add(logs.AccessLog(), times=1001)
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
        log = logs.AccessLog()
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
        log = logs.AccessLog()
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
    add(logs.AccessLog())  # and needs no event loop
    assert keeps.messages == [
        ("modelserver.access", "INFO", "10.0.0.7 POST /v1/models/m:predict 200 12.30ms")
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
        log = logs.AccessLog()
        add(log)
        log.flush()

    configure(fresh)
    change()
    asyncio.run(main())
    assert fresh.getvalue() == ""


def test_another_format_is_kept(fresh):
    async def main():
        log = logs.AccessLog()
        add(log)
        log.flush()

    configure(fresh)
    logging.getLogger("modelserver").handlers[0].setFormatter(logging.Formatter("<%(message)s>"))
    asyncio.run(main())
    assert fresh.getvalue() == "<10.0.0.7 POST /v1/models/m:predict 200 12.30ms>\n"

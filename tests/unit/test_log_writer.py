"""Lines to a descriptor that may take nothing: on real pipes and processes."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from harness import wait_until

from modelserver import log_writer
from modelserver.log_writer import LineWriter

LINE = b"%07d " + b"x" * 55 + b"\n"  # 64 bytes


def notice(lost):
    return b"lost %d\n" % lost


@pytest.fixture
def pipe():
    """The ends of a pipe; what is still open of it at the end is closed."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def read_lines(end, count):
    """So many lines; not more than are there may be asked for."""
    got = b""
    while got.count(b"\n") < count:
        piece = os.read(end, 65536)
        assert piece
        got += piece
    return got.splitlines(keepends=True)


def fill(writer, count):
    """Write so many numbered lines, and return the seconds that it took."""
    started = time.monotonic()
    for number in range(count):
        writer.write(LINE % number)
    return time.monotonic() - started


def test_lines_come_in_order(pipe):
    writer = LineWriter(pipe[1], notice)
    fill(writer, 500)
    assert read_lines(pipe[0], 500) == [LINE % number for number in range(500)]
    assert writer.flush()


def fill_pipe(pipe):
    """Leave no room; returns how many bytes are in the way."""
    size = fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
    return os.write(pipe[1], b"-" * (size - 1) + b"\n")


def test_a_pipe_that_nobody_reads_holds_up_nobody_and_the_gap_is_told(pipe):
    fill_pipe(pipe)
    writer = LineWriter(pipe[1], notice, most_bytes=6400)
    fill(writer, 5000)
    started = time.monotonic()
    assert not writer.flush(0.2)
    assert not writer.flush(60)  # not again: nothing has moved
    assert time.monotonic() - started < 30
    read_lines(pipe[0], 1)
    assert read_lines(pipe[0], 101) == [*(LINE % number for number in range(100)), notice(4900)]
    writer.write(b"after\n")
    assert read_lines(pipe[0], 1) == [b"after\n"]
    assert writer.flush()


def test_a_gap_stands_where_lines_are_missing(pipe):
    fill_pipe(pipe)
    writer = LineWriter(pipe[1], notice, most_bytes=6400)
    writer.write(b"before\n")
    for _ in range(2):
        writer.write(b"x" * 7000 + b"\n")  # more than there is room for
    writer.write(b"behind\n")
    writer.write(b"x" * 7000 + b"\n")
    read_lines(pipe[0], 1)
    assert read_lines(pipe[0], 4) == [b"before\n", notice(2), b"behind\n", notice(1)]


def test_no_reader_is_no_error_and_another_reader_gets_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(log_writer, "_RETRY_S", 0.05)
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    end = os.open(path, os.O_WRONLY)
    writer = LineWriter(end, notice, most_bytes=6400)
    writer.write(b"one\n")
    assert writer.flush()
    assert os.read(reader, 100) == b"one\n"
    os.close(reader)
    fill(writer, 1000)
    started = time.monotonic()
    assert not writer.flush(60)  # the system says that nobody reads: no reason to wait
    assert time.monotonic() - started < 30
    reader = os.open(path, os.O_RDONLY)
    lines = read_lines(reader, 101)
    assert lines == [LINE % number for number in range(100)] + [notice(900)]
    assert writer.flush()
    os.close(reader)
    os.close(end)


def test_a_closed_descriptor_is_given_up(pipe):
    writer = LineWriter(pipe[1], notice)
    os.close(pipe[1])
    writer.write(b"lost\n")
    assert writer.flush()
    # Its number is somebody else's now.
    pipe[1] = os.dup(pipe[0])
    fill(writer, 10)
    assert writer.flush()


def test_a_non_blocking_descriptor_gets_every_line(pipe, monkeypatch):
    monkeypatch.setattr(log_writer, "_RETRY_S", 1000.0)  # it is no broken one, which is tried again later
    fcntl.fcntl(pipe[1], fcntl.F_SETFL, fcntl.fcntl(pipe[1], fcntl.F_GETFL) | os.O_NONBLOCK)
    writer = LineWriter(pipe[1], notice)
    fill(writer, 5000)
    assert read_lines(pipe[0], 5000) == [LINE % number for number in range(5000)]
    assert writer.flush()


def test_a_full_device_loses_lines_and_no_more(monkeypatch):
    monkeypatch.setattr(log_writer, "_RETRY_S", 0.05)
    end = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(end, notice, most_bytes=6400)
    fill(writer, 1000)
    assert not writer.flush(60)
    os.close(end)
    wait_until(writer.flush)


@pytest.mark.parametrize("is_held", [False, True], ids=["idle", "while another thread holds the lock"])
def test_a_forked_child_writes_its_own_lines_only(pipe, is_held):
    writer = LineWriter(pipe[1], notice)
    in_the_way = fill_pipe(pipe)
    fill(writer, 2000)  # they wait in the queue
    held, release = threading.Event(), threading.Event()

    def hold():
        with writer._changed:
            held.set()
            release.wait()

    holder = threading.Thread(target=hold)
    if is_held:
        holder.start()
        held.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(60)  # a child that hangs would hang the test
        writer.write(b"from the child\n")
        os._exit(0 if writer.flush(50) else 1)
    release.set()
    lines = read_lines(pipe[0], 2002)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert lines.count(b"from the child\n") == 1
    lines.remove(b"from the child\n")
    assert len(lines[0]) == in_the_way
    assert lines[1:] == [LINE % number for number in range(2000)]
    if is_held:
        holder.join()


def test_lines_of_two_processes_are_not_mixed(pipe):
    """Also where the pipe is full all the time: the reader is slow."""
    pids = []
    for letter in b"ab":
        pid = os.fork()
        if not pid:
            signal.alarm(60)
            writer = LineWriter(pipe[1], notice, most_bytes=10**7)
            for _ in range(200):
                writer.write((b"%c" % letter * 99 + b"\n") * 50)
            os._exit(0 if writer.flush(50) else 1)
        pids.append(pid)
    lines = []
    while len(lines) < 20_000:
        lines += read_lines(pipe[0], 100)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    assert set(lines) == {b"a" * 99 + b"\n", b"b" * 99 + b"\n"}


def test_without_threads_to_be_had_lines_are_written_as_far_as_they_go(pipe, monkeypatch):
    def none(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    writer = LineWriter(pipe[1], notice, most_bytes=6400)
    fill(writer, 10)
    assert read_lines(pipe[0], 10) == [LINE % number for number in range(10)]
    count = 5000
    assert fill(writer, count) < 30  # past what the pipe and the queue hold
    monkeypatch.undo()
    writer.write(b"last\n")
    lines = []
    while not (lines and lines[-1].startswith(b"lost")):
        lines += read_lines(pipe[0], 1)
    assert lines[-1] == notice(count + 1 - (len(lines) - 1))
    assert writer.flush()


def test_a_signal_handler_may_log_in_the_middle_of_a_line(pipe):
    writer = LineWriter(pipe[1], notice)
    read = []

    def read_all():
        while b"end\n" not in read:
            read.extend(read_lines(pipe[0], 1))

    reader = threading.Thread(target=read_all)
    reader.start()
    before = signal.signal(signal.SIGALRM, lambda *_: writer.write(b"from the handler\n"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        wait_until(lambda: fill(writer, 1000) and b"from the handler\n" in read)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    writer.write(b"end\n")
    reader.join()
    assert writer.flush()


ENDS = """
import atexit, os, signal, sys
atexit.register(lambda: writer.write(b"from an exit handler\\n"))
from modelserver.log_writer import LineWriter
writer = LineWriter(1, lambda lost: b"lost")
atexit.register(writer.end)
if sys.argv[1:] == ["patient"]:
    atexit.register(writer.flush, 30)  # before the one above: a second is little on a busy machine
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as some programs do, for their pipes
for number in range(300):
    writer.write(b"%d\\n" % number)
"""


def ends(code, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", ENDS + code, *arguments], **options)


def test_nothing_is_lost_at_the_end_of_a_process():
    with ends("sys.exit(3)", "patient", stdout=subprocess.PIPE) as process:
        assert process.stdout.read().splitlines() == [
            *(b"%d" % number for number in range(300)),
            b"from an exit handler",
        ]
    assert process.returncode == 3


def test_a_process_ends_whether_or_not_its_pipe_moves(pipe):
    process = ends("writer.write(b'x' * 500_000 + b'\\n'); sys.exit(3)", stdout=pipe[1])
    assert process.wait(60) == 3


def test_a_process_without_a_reader_lives_and_ends():
    process = ends("writer.write(b'more\\n'); writer.flush(); sys.exit(3)", stdout=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(60) == 3

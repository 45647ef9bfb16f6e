"""Blocks of shared memory: who writes, who reads, and what a process that dies leaves behind."""

import errno
import gc
import os
import random
import signal
import threading

import pytest

from modelserver.metrics.memory import Block, MetricMemory

HEAD_BYTES = 64


def values(memory, number):
    """The first word of each series of a block."""
    return {record.key: memory.integers[record.start] for record in memory.records(number)}


def add(block, key, count=1, words=1):
    integers, _, at = block.series(key, words)
    integers[at] += count


def in_child(run):
    """Call ``run`` in a forked process that ends at once; returns how it ended."""
    if not (pid := os.fork()):
        try:
            run()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_is_written_is_read():
    memory = MetricMemory(2)
    block = Block(memory, 1)
    add(block, b"a", 3)
    add(block, b"longer than a word", 4, words=5)
    add(block, b"a", 2)
    assert values(memory, 1) == {b"a": 5, b"longer than a word": 4}
    assert values(memory, 0) == values(memory, memory.SUPERVISOR) == {}
    assert list(memory.numbers) == [-1, 0, 1]


def test_integers_and_floats_are_the_same_words():
    integers, floats, at = Block(MetricMemory(1), 0).series(b"a", 2)
    integers[at] = 7
    floats[at + 1] = 0.5
    assert (integers[at], floats[at + 1]) == (7, 0.5)


def test_the_next_process_of_a_block_goes_on_from_what_the_last_one_has_left():
    memory = MetricMemory(1)

    def work():
        block = Block(memory, 0)
        add(block, b"calls", 10)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    assert in_child(work) == -signal.SIGKILL
    successor = Block(memory, 0)
    add(successor, b"calls")
    add(successor, b"new")
    assert values(memory, 0) == {b"calls": 21, b"new": 1}


def test_processes_count_at_the_same_time_and_nothing_is_lost():
    memory = MetricMemory(3)
    children = []
    for number in range(3):
        if not (pid := os.fork()):
            block = Block(memory, number)
            for turn in range(20_000):
                add(block, b"calls")
                if turn % 1000 == 0:
                    add(block, b"series %d" % turn)
            os._exit(0)
        children.append(pid)
    seen = 0
    while children:  # read while they write
        for number in range(3):
            for key, value in values(memory, number).items():
                assert key == b"calls" or (key.startswith(b"series ") and value in (0, 1))
        now = sum(values(memory, number).get(b"calls", 0) for number in range(3))
        assert now >= seen
        seen = now
        pid, status = os.waitpid(-1 if not children else children[0], os.WNOHANG)
        if pid:
            assert status == 0
            children.remove(pid)
    assert [len(values(memory, number)) for number in range(3)] == [21, 21, 21]
    assert sum(values(memory, number)[b"calls"] for number in range(3)) == 60_000


def test_threads_of_a_process_lose_no_count():
    memory = MetricMemory(1)
    block = Block(memory, 0)
    integers, floats, at = block.series(b"calls", 2)

    def work():
        for turn in range(100_000):
            integers[at] += 1
            floats[at + 1] += 0.5
            if turn % 1000 == 0:
                block.series(b"series %d" % turn, 1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (integers[at], floats[at + 1]) == (300_000, 150_000.0)
    assert len(values(memory, 0)) == 101


@pytest.mark.parametrize("written", range(1, 9))
def test_a_key_that_was_half_written_is_not_read(written):
    memory = MetricMemory(1)
    add(Block(memory, 0), b"first")
    # What a process leaves that is killed while it appends: part of a record behind the last, no header.
    end = max(record.start + record.words for record in memory.records(0))
    for at in range(end + 1, end + 1 + written):
        memory.integers[at] = -1
    assert values(memory, 0) == {b"first": 1}
    successor = Block(memory, 0)
    add(successor, b"2", 5)
    add(successor, b"third", 6)
    assert values(memory, 0) == {b"first": 1, b"2": 5, b"third": 6}


def test_a_header_that_is_seen_before_its_key_is_not_read_yet():
    memory = MetricMemory(1)
    block = Block(memory, 0)
    add(block, b"first")
    add(block, b"second")
    second = list(memory.records(0))[1]
    key = memory.integers[second.start - 1]
    memory.integers[second.start - 1] = 0
    assert list(values(memory, 0)) == [b"first"]
    memory.integers[second.start - 1] = key
    assert list(values(memory, 0)) == [b"first", b"second"]


def test_a_block_that_is_full_drops_series_and_says_how_many():
    memory = MetricMemory(2, block_bytes=4096)
    block = Block(memory, 0)
    for turn in range(2):
        for number in range(1000):
            add(block, b"series %d" % number)
        kept = len(values(memory, 0))
        assert 100 < kept < 1000
        assert memory.dropped(0) == 1000 - kept, f"turn {turn}"
    assert set(values(memory, 0).values()) == {2}
    assert values(memory, 1) == {}
    assert memory.dropped(1) == 0
    words = memory.integers[memory.span(1)[0] : memory.span(1)[1]]
    assert not any(words), "it has written into the next block"


def test_any_sizes_fill_a_block_to_its_end_and_no_further():
    generator = random.Random(1)
    for _ in range(200):
        memory = MetricMemory(1, block_bytes=1024)
        block = Block(memory, memory.SUPERVISOR)
        expected = {}
        for number in range(60):
            key = b"%d" % number + b"x" * generator.randrange(40)
            integers, _, at = block.series(key, generator.randrange(1, 8))
            integers[at] = number
            expected[key] = number
        read = values(memory, memory.SUPERVISOR)
        assert read.items() <= expected.items()
        assert len(read) == 60 - memory.dropped(memory.SUPERVISOR)
        assert not any(memory.integers[slice(*memory.span(0))])


def test_a_key_that_is_too_long_is_dropped():
    memory = MetricMemory(1)
    block = Block(memory, 0)
    add(block, b"x" * 5000)
    add(block, b"after")
    assert values(memory, 0) == {b"after": 1}
    assert memory.dropped(0) == 1


def test_the_same_key_with_another_size_is_another_series():
    memory = MetricMemory(1)
    add(Block(memory, 0), b"seconds", words=20)
    add(Block(memory, 0), b"seconds", words=23)  # the program was upgraded meanwhile
    assert [record.words for record in memory.records(0)] == [20, 23]


def test_clearing_a_block():
    memory = MetricMemory(1)
    block = Block(memory, 0)
    for key in (b"total", b"now"):
        add(block, key, 5)
    assert memory.pid(0) == os.getpid()
    memory.clear(0, ends=lambda key: key == b"now")
    assert values(memory, 0) == {b"total": 5, b"now": 0}
    assert memory.pid(0) == 0


def test_another_process_attaches_by_the_descriptor():
    memory = MetricMemory(2)
    handed_over = os.dup(memory.fileno)

    def work():
        other = MetricMemory.attached(handed_over)
        add(Block(other, 1), b"from the other", 3)

    assert in_child(work) == 0
    os.close(handed_over)
    assert values(memory, 1) == {b"from the other": 3}


def test_memory_leaves_no_descriptor_behind():
    memory = MetricMemory(1)
    fileno = memory.fileno
    block = Block(memory, 0)
    integers, _, at = block.series(b"a", 1)
    del memory, block
    gc.collect()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fileno)
    integers[at] += 1  # the memory is still there
    assert integers[at] == 1


def test_only_what_is_written_takes_memory():
    memory = MetricMemory(64)
    add(Block(memory, 7), b"a")
    assert os.fstat(memory.fileno).st_size > 64 * 256 * 1024
    assert os.fstat(memory.fileno).st_blocks * 512 <= 4 * 4096

"""Who should take the next connection, by what each worker says of itself."""

import errno
import gc
import os

import pytest

from modelserver.load_board import ASLEEP_S, LoadBoard


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return int(self.now_s * 1e9)


def serving(board, number, connections=0):
    slot = board.slot(number)
    slot.open()
    slot.is_spare = False
    slot.set_connections(connections)
    return slot


def takes(*connections):
    """Which workers of a board would take the next connection."""
    board = LoadBoard(len(connections))
    slots = [serving(board, number, count) for number, count in enumerate(connections)]
    return [number for number, slot in enumerate(slots) if not slot.lighter()]


@pytest.mark.parametrize(
    ("connections", "expected"),
    [
        ((0, 0), [0, 1]),
        ((1, 0), [1]),
        ((2, 2, 1), [2]),
        ((3, 1, 1), [1, 2]),
        ((15, 14), [1]),  # exact as long as one connection is much
        ((33, 31), [0, 1]),
        ((34, 31), [1]),
    ],
)
def test_the_next_connection_is_for_those_that_have_the_fewest(connections, expected):
    assert takes(*connections) == expected


def test_sixty_four_connections_differ_by_four_at_most_in_any_order():
    reached, states = set(), {(0, 0)}
    while states:
        reached |= states
        following = {
            (first + (taker == 0), second + (taker == 1))
            for first, second in states
            for taker in takes(first, second)
        }
        states = {state for state in following if sum(state) <= 64}
    assert {state for state in reached if sum(state) == 4} == {(2, 2)}
    assert max(abs(first - second) for first, second in reached) <= 4


def test_nobody_waits_for_a_worker_that_is_not_there():
    board = LoadBoard(4)
    first = serving(board, 0, 5)
    assert first.lighter() == []  # nobody else has opened
    second = serving(board, 1)
    assert len(first.lighter()) == 1
    second.close()
    assert first.lighter() == []
    second.open()
    assert len(first.lighter()) == 1
    board.clear(1)
    assert first.lighter() == []


def test_a_spare_worker_leaves_connections_to_the_others_and_nobody_to_it():
    board = LoadBoard(3)
    busy = serving(board, 0, 100)
    loading = board.slot(1)
    loading.open()
    assert loading.is_spare
    assert busy.lighter() == []
    assert len(loading.lighter()) == 1
    loading.is_spare = False
    assert loading.lighter() == []
    assert len(busy.lighter()) == 1


def test_spare_workers_share_among_themselves():
    board = LoadBoard(2)
    first, second = board.slot(0), board.slot(1)
    first.open()
    second.open()
    first.set_connections(1)
    assert len(first.lighter()) == 1
    assert second.lighter() == []


def test_one_that_sleeps_is_left_out_for_a_while_or_until_it_says_that_it_is_awake():
    clock = Clock()
    board = LoadBoard(3, clock)
    first, second, third = (serving(board, number, count) for number, count in enumerate((4, 3, 0)))
    waited_for = first.lighter()
    assert len(waited_for) == 2
    first.mark_asleep(waited_for)
    assert first.lighter() == second.lighter() == []  # all of them know
    second.is_awake()
    assert len(first.lighter()) == 1
    clock.now_s += ASLEEP_S / 2
    assert second.lighter() == []
    clock.now_s += ASLEEP_S / 2
    assert second.lighter() == [waited_for[1]]
    assert third.lighter() == []


def test_a_replaced_worker_begins_awake():
    board = LoadBoard(2)
    first, second = serving(board, 0, 4), serving(board, 1)
    first.mark_asleep(first.lighter())
    board.clear(1)
    second = serving(board, 1)
    assert len(first.lighter()) == 1
    assert second.lighter() == []


def test_what_the_others_have_taken():
    board = LoadBoard(3)
    first, second, third = (serving(board, number) for number in range(3))
    second.has_accepted()
    third.has_accepted()
    third.has_accepted()
    assert [slot.accepted_elsewhere() for slot in (first, second, third)] == [3, 2, 1]


def test_another_process_sees_the_same_board():
    board = LoadBoard(2)
    first = serving(board, 0, 4)
    reading, writing = os.pipe()
    handed_over = os.dup(board.fileno)
    if not (pid := os.fork()):
        other = LoadBoard.attached(handed_over).slot(1)
        other.open()
        other.is_spare = False
        os.write(writing, b"%d" % len(other.lighter()))
        os._exit(0)
    os.close(handed_over)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(reading, 9) == b"0"
    assert len(first.lighter()) == 1
    os.close(reading)
    os.close(writing)


def test_a_board_leaves_no_descriptor_behind():
    board = LoadBoard(2)
    fileno = board.fileno
    slot = board.slot(0)
    del board
    gc.collect()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fileno)
    slot.open()  # the memory is still there
    assert slot.lighter() == []

"""When a batch waits for callers that were just answered: crowds against a clock of the test's own."""

import pytest

from modelserver.pacing import Pace

CALL_S = 0.010


class World:
    """Callers of one model, on a clock."""

    def __init__(self):
        self.now = 100.0
        self.pace = Pace(lambda: self.now)

    def batch(self, callers, waiting=0, back_after=(), seconds=CALL_S, rows=None):
        """A batch is answered; ``back_after`` says when each of its callers asks again."""
        self.now += seconds
        self.pace.answered(callers, callers if rows is None else rows, seconds, waiting)
        answered = self.now
        for after in back_after:
            self.now = answered + after
            self.pace.arrived()
        self.now = answered


@pytest.fixture
def world():
    return World()


def test_nothing_is_known_at_first(world):
    assert world.pace.patience(1) == 0
    world.batch(4)
    assert world.pace.patience(1) == 0


def test_callers_that_come_back_at_once_are_waited_for_until_all_are_there(world):
    for _ in range(6):
        world.batch(32, waiting=32, back_after=[0.001] * 32)
    assert world.pace.patience(32) == pytest.approx(CALL_S / 2)
    assert world.pace.patience(63) > 0
    assert world.pace.patience(64) == 0
    world.now += CALL_S / 2
    assert world.pace.patience(32) == 0


def test_a_lone_caller_never_waits(world):
    for _ in range(20):
        world.batch(1, back_after=[0.0001])
        assert world.pace.patience(1) == 0


@pytest.mark.parametrize("back_after", [[], [0.006] * 32, [0.001] * 8])
def test_callers_that_do_not_come_back_in_time_are_not(world, back_after):
    for _ in range(20):
        world.batch(32, waiting=5, back_after=back_after)
        assert world.pace.patience(5) == 0


def test_a_crowd_that_leaves_is_forgotten(world):
    for _ in range(10):
        world.batch(8, back_after=[0.001] * 8)
    for _ in range(3):
        world.batch(8)
    assert world.pace.patience(1) == 0


def test_no_time_is_spent_where_every_row_costs_the_same(world):
    for callers in (8, 16, 24, 8, 16, 24):
        world.batch(callers, waiting=8, back_after=[0.001] * callers, seconds=callers * 0.001)
    assert world.pace.fixed_seconds == pytest.approx(0, abs=1e-9)
    assert world.pace.patience(8) == 0


def test_the_fixed_part_of_a_call_is_told_from_its_rows(world):
    for rows in (10, 20, 40, 10, 20, 40):
        world.batch(4, rows=rows, seconds=0.005 + rows * 0.0001)
    assert world.pace.fixed_seconds == pytest.approx(0.005)


def test_of_batches_of_one_size_all_is_taken_for_fixed(world):
    for seconds in (0.004, 0.006, 0.004, 0.006):
        world.batch(4, seconds=seconds)
    assert world.pace.fixed_seconds == pytest.approx(0.005, rel=0.05)


def test_a_call_that_is_longer_with_fewer_rows_counts_as_fixed(world):
    world.batch(1, seconds=0.02)
    world.batch(9, seconds=0.01)
    assert 0.01 < world.pace.fixed_seconds < 0.02

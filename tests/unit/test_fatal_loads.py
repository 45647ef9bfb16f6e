"""What a worker was loading when it died is known to the next one of its number, and to no other."""

from modelserver.fatal_loads import FatalLoads
from modelserver.model_board import ModelBoard

FILES = (("weights", 4, 1),)


def test_a_load_that_has_not_ended_counts_as_a_death():
    board = ModelBoard(2)
    FatalLoads(board, 0).begins("m", 2, FILES)
    after = FatalLoads(board, 0)
    assert after.deaths("m", 2, FILES) == 1
    assert after.deaths("m", 1, FILES) == 0
    assert after.deaths("other", 2, FILES) == 0
    assert FatalLoads(board, 1).deaths("m", 2, FILES) == 0
    after.begins("m", 2, FILES)
    assert FatalLoads(board, 0).deaths("m", 2, FILES) == 2


def test_a_load_that_has_ended_is_forgotten():
    board = ModelBoard(1)
    notes = FatalLoads(board, 0)
    notes.begins("m", 2, FILES)
    notes.begins("m", 3, FILES)
    notes.ended("m", 2)
    after = FatalLoads(board, 0)
    assert (after.deaths("m", 2, FILES), after.deaths("m", 3, FILES)) == (0, 1)
    after.ended("m", 3)
    after.ended("nobody", 3)
    assert FatalLoads(board, 0).deaths("m", 3, FILES) == 0


def test_other_files_are_another_version():
    board = ModelBoard(1)
    FatalLoads(board, 0).begins("m", 2, FILES)
    after = FatalLoads(board, 0)
    mended = (("weights", 5, 2),)
    assert after.deaths("m", 2, mended) == 0
    after.begins("m", 2, mended)
    assert FatalLoads(board, 0).deaths("m", 2, mended) == 1


def test_a_worker_knows_whether_there_was_one_before():
    board = ModelBoard(2)
    assert not FatalLoads(board, 0).has_predecessor
    assert FatalLoads(board, 0).has_predecessor
    assert not FatalLoads(board, 1).has_predecessor
    assert not FatalLoads(None, 0).has_predecessor


def test_without_a_board_nothing_is_noted():
    notes = FatalLoads(None, 0)
    notes.begins("m", 2, FILES)
    notes.ended("m", 2)
    assert notes.deaths("m", 2, FILES) == 0

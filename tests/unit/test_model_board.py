"""The model board: what workers tell each other in shared memory."""

import multiprocessing
import os

import pytest

from modelserver.model_board import MOST_BYTES, ModelBoard


def test_texts_are_those_of_the_workers_that_have_told_something():
    board = ModelBoard(3)
    assert board.texts() == []
    board.publish(0, b"zero")
    board.publish(2, b"two")
    assert board.texts() == [b"zero", b"two"]
    board.publish(0, b"")
    assert board.texts() == [b"two"]


def test_a_shorter_text_leaves_nothing_of_a_longer_one():
    board = ModelBoard(1)
    board.publish(0, b"long text")
    board.publish(0, b"short")
    assert board.texts() == [b"short"]


def test_a_text_that_has_no_room_is_refused_and_the_one_before_stays():
    board = ModelBoard(2)
    board.publish(0, b"before")
    board.publish(1, b"neighbour")
    with pytest.raises(ValueError, match=f"{MOST_BYTES + 1} bytes, at most {MOST_BYTES}"):
        board.publish(0, b"x" * (MOST_BYTES + 1))
    board.publish(0, b"y" * MOST_BYTES)
    assert board.texts() == [b"y" * MOST_BYTES, b"neighbour"]


def test_another_process_sees_it_by_the_descriptor():
    board = ModelBoard(2)
    attached = ModelBoard.attached(os.dup(board.fileno))
    attached.publish(1, b"there")
    assert board.texts() == [b"there"]
    board.configure("model {}")
    assert attached.configuration() == (1, "model {}")


def test_each_configuration_has_a_generation_of_its_own():
    board = ModelBoard(1)
    assert board.generation == 0
    assert board.configure("first") == 1
    assert board.configure("second") == 2
    assert board.generation == 2
    assert board.configuration() == (2, "second")


def test_orders_are_made_of_those_before_and_of_their_generation():
    board = ModelBoard(1)
    assert (board.orders_generation, board.orders()) == (0, b"")
    assert board.order(lambda before, generation: before + b"%d" % generation) == 1
    attached = ModelBoard.attached(os.dup(board.fileno))
    assert attached.order(lambda before, generation: before + b" %d" % generation) == 2
    assert (board.orders_generation, board.orders()) == (2, b"1 2")
    assert board.generation == 0
    with pytest.raises(ValueError, match="at most"):
        board.order(lambda before, generation: b"x" * (MOST_BYTES + 1))
    assert (board.orders_generation, board.orders()) == (2, b"1 2")


def _order(board, count):
    for _ in range(count):
        board.order(lambda before, generation: before + b"x")


def test_no_order_of_several_workers_is_lost():
    board = ModelBoard(2)
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_order, args=(board, 300)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert len(board.orders()) == board.orders_generation == 600


def test_that_all_have_started_is_known_to_all_and_for_good():
    board = ModelBoard(2)
    attached = ModelBoard.attached(os.dup(board.fileno))
    assert not attached.has_started
    board.started()
    board.publish(0, b"")
    assert attached.has_started
    attached.started()
    assert board.has_started


def test_a_note_is_for_the_next_worker_of_that_number_and_stays_when_the_states_are_wiped_out():
    board = ModelBoard(2)
    attached = ModelBoard.attached(os.dup(board.fileno))
    board.publish(1, b"states")
    board.note(1, b"loading")
    board.publish(1, b"")
    assert attached.noted(1) == b"loading"
    assert attached.noted(0) == b""
    assert attached.texts() == []
    assert attached.generation == 0


def _write(board, count):
    for number in range(count):
        board.publish(0, b"%d" % (number % 10) * (1 + number % 5000))


def test_a_reader_never_sees_half_of_a_text():
    board = ModelBoard(1)
    writer = multiprocessing.get_context("fork").Process(target=_write, args=(board, 20_000))
    writer.start()
    seen = set()
    while writer.is_alive():
        for text in board.texts():
            assert len(set(text)) == 1, "a mix of two texts"
            seen.add(text[:1])
    writer.join()
    assert writer.exitcode == 0
    assert len(seen) > 1


def test_a_writer_that_died_in_the_middle_leaves_no_text_and_can_be_followed_by_another():
    board = ModelBoard(1)
    board.publish(0, b"whole")
    written, _ = board._head(0)
    board._memory[0:8] = (written + 1).to_bytes(8, "little")  # as it is while a text is being written
    assert board.texts() == []
    board.publish(0, b"next")
    assert board.texts() == [b"next"]

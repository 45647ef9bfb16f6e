"""Threads: short networks stay on one, long ones get torch's own number."""

import threading
import time

import pytest
import torch

from pytorchserver import cpu_threads

from .conftest import MLP


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(cpu_threads, "ALL", 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    cpu_threads.use(torch.get_num_threads())


@pytest.mark.parametrize(("seconds", "threads"), [(0.0, 1), (0.002, 2)])
def test_a_short_forward_stays_on_one_thread(seconds, threads):
    seen = []

    def forward():
        seen.append(torch.get_num_threads())
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass

    assert cpu_threads.settle(forward) == threads
    assert set(seen) == {1}  # timed on one


def test_one_slow_run_of_a_short_forward_does_not_count():
    pauses = [0.002, 0.0, 0.002]
    assert cpu_threads.settle(lambda: time.sleep(pauses.pop())) == 1


@pytest.mark.parametrize(("told", "threads"), [("3", 3), ("3,1", 3), ("", 2), ("0", 2), ("many", 2)])
def test_a_long_forward_gets_the_share_of_the_worker(monkeypatch, told, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert cpu_threads.settle(lambda: time.sleep(0.002)) == threads


def test_the_number_holds_for_the_current_thread_only():
    cpu_threads.use(1)
    seen = []

    def other():
        cpu_threads.use(2)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [2]
    assert torch.get_num_threads() == 1


def test_a_served_network_applies_its_number(folder):
    folder.write("model.py", MLP).with_weights()
    model = folder.load()
    assert model._loaded.threads == 1
    cpu_threads.use(2)
    model.predict({"instances": [[1.0, 2.0, 3.0, 4.0]]})
    assert torch.get_num_threads() == 1

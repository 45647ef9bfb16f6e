"""What is counted of a model where TensorFlow Serving's page is shown, beside what always is.

Rules of the room: as in ``counting``. Only what is counted for each request is here, so that it costs nothing
where the page is off: ``Metrics.model`` then makes plain ``ModelMetrics``. What the page can work out from
other counts is not counted twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from typing import TypeAlias

from modelserver.metrics import families, tfs_families
from modelserver.metrics.counting import Counter, Histogram, ModelMetrics
from modelserver.metrics.memory import Block

_MICROS = 1e6
_LATENCY_BOUNDS = tfs_families.REQUEST_LATENCY.buckets
_QUEUING_BOUNDS = tfs_families.QUEUING_LATENCY.buckets
_REQUEST_BOUNDS = families.REQUEST_SECONDS.buckets
_Counts: TypeAlias = "memoryview[int]"
_Sums: TypeAlias = "memoryview[float]"
_Places: TypeAlias = tuple["_Counts", int, "_Counts", "_Sums", int, "_Counts", "_Sums", int]
"""A counter and its place; then twice a histogram's counts, its sum, and the place of the sum."""


class RunTimes:
    """How long the calls of a hook took, by TensorFlow Serving's names.

    Args:
        block: of this process.
        name: of the model.
        api: ``Predict``, ``Classify`` or ``Regress``.
    """

    __slots__ = ("_at", "_counts_at", "_floats", "_integers")

    def __init__(self, block: Block, name: str, api: str) -> None:
        family = tfs_families.RUNTIME_LATENCY
        self._integers, self._floats, self._at = block.series(family.key(name, api), family.words)
        self._counts_at = self._at + 1

    def observe_each(self, value: float, count: int) -> None:
        """Count a call of ``value`` seconds that answered ``count`` requests."""
        micros = value * _MICROS
        self._integers[self._counts_at + bisect_left(_LATENCY_BOUNDS, micros)] += count
        self._floats[self._at] += micros * count


class _TimedTwice(Histogram):
    """The times of ``predict``, by our name and by TensorFlow Serving's."""

    __slots__ = ("_run_counts", "_run_counts_at", "_run_sum_at", "_run_sums")

    def __init__(self, block: Block, name: str) -> None:
        super().__init__(block, families.PREDICT_SECONDS, name)
        family = tfs_families.RUNTIME_LATENCY
        self._run_counts, self._run_sums, at = block.series(family.key(name, "Predict"), family.words)
        self._run_sum_at, self._run_counts_at = at, at + 1

    def observe_each(self, value: float, count: int) -> None:
        # Both by hand, as in `Answers.answered`: every request comes here.
        self._integers[self._counts_at + bisect_left(self._bounds, value)] += count
        self._floats[self._at] += value * count
        micros = value * _MICROS
        self._run_counts[self._run_counts_at + bisect_left(_LATENCY_BOUNDS, micros)] += count
        self._run_sums[self._run_sum_at] += micros * count


class _QueuedTwice(Histogram):
    """How long requests waited, by our name; where it was for a batch, by TensorFlow Serving's as well."""

    def __init__(self, block: Block, name: str) -> None:
        super().__init__(block, families.QUEUE_WAIT_SECONDS, name)
        self._block, self._name = block, name

    def observe_since(self, now: float, moments: Iterable[float]) -> None:
        integers, counts_at, bounds, total = self._integers, self._counts_at, self._bounds, 0.0
        batch_counts, batch_sums, batch_at = self._batch
        for moment in moments:
            value = now - moment
            integers[counts_at + bisect_left(bounds, value)] += 1
            batch_counts[batch_at + 1 + bisect_left(_QUEUING_BOUNDS, value * _MICROS)] += 1
            total += value
        self._floats[self._at] += total
        batch_sums[batch_at] += total * _MICROS

    @cached_property
    def _batch(self) -> tuple[memoryview[int], memoryview[float], int]:
        # TensorFlow Serving's models share a pool of threads that has a name; ours have their own.
        family = tfs_families.QUEUING_LATENCY
        return self._block.series(family.key(self._name), family.words)


class TFSModelMetrics(ModelMetrics):
    """What is counted of one model, TensorFlow Serving's metrics among it. Made by ``Metrics.model``."""

    def __init__(self, block: Block, name: str) -> None:
        super().__init__(block, name)
        self.predict_seconds = _TimedTwice(block, name)
        self.queue_wait_seconds = _QueuedTwice(block, name)
        self._well: dict[str, dict[str, _Places]] = {}
        self._meet_well("predict", "REST")  # a rate wants the 0 that it grew from

    def answered(self, verb: str, status: int, seconds: float, entrypoint: str = "REST") -> None:
        """A request has its answer; see ``Answers.answered``."""
        if status != 200:
            super().answered(verb, status, seconds)
            return
        # By hand, as there: 0.5 us, and 0.8 with a call of that.
        try:
            words, at, times, floats, sum_at, counts, sums, micros_at = self._well[entrypoint][verb]
        except KeyError:
            words, at, times, floats, sum_at, counts, sums, micros_at = self._meet_well(verb, entrypoint)
        words[at] += 1
        times[sum_at + 1 + bisect_left(_REQUEST_BOUNDS, seconds)] += 1
        floats[sum_at] += seconds
        micros = seconds * _MICROS
        counts[micros_at + 1 + bisect_left(_LATENCY_BOUNDS, micros)] += 1
        sums[micros_at] += micros

    def examples(self, count: int) -> None:
        """A request about so many examples was answered."""
        sizes, total = self._examples
        sizes.observe(count)
        total.inc(count)

    @cached_property
    def classify_seconds(self) -> RunTimes:
        """Takes the times of the hook; most models have none, and no such series."""
        return RunTimes(self._block, self.name, "Classify")

    @cached_property
    def regress_seconds(self) -> RunTimes:
        """Takes the times of the hook."""
        return RunTimes(self._block, self.name, "Regress")

    @cached_property
    def _examples(self) -> tuple[Histogram, Counter]:
        sizes = Histogram(self._block, tfs_families.EXAMPLE_COUNTS, self.name)
        return sizes, Counter(self._block, tfs_families.EXAMPLE_COUNT_TOTAL, self.name)

    def _meet_well(self, verb: str, entrypoint: str) -> _Places:
        """Where good answers that come for the first time are counted."""
        # TensorFlow Serving writes `predict` for REST and `Predict` for gRPC.
        api = verb if entrypoint == "REST" else "".join(word.capitalize() for word in verb.split("_"))
        family = tfs_families.REQUEST_LATENCY
        micros = self._block.series(family.key(self.name, api, entrypoint), family.words)
        places = *self._meet(verb, 200), *micros
        self._well.setdefault(entrypoint, {})[verb] = places
        return places

"""The objects that count.

Rules of the room: numbers into memory; no HTTP, no model, no settings. Code that counts is handed a
``Metrics`` or a ``ModelMetrics`` and calls it; nothing here is global, and nothing here waits or fails.

Every method may be called from any thread of its process. CPython 3.11 to 3.14 switch no threads between the
load and the store of ``words[at] += 1`` (a test counts from two), except in the free-threaded build, which
would lose some.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from typing import TypeAlias

from modelserver.metrics import families, tfs_families
from modelserver.metrics.families import Family
from modelserver.metrics.memory import Block, MetricMemory

UNKNOWN = "unknown"
"""The ``model`` of a request that is for no registered model: made-up names make no series."""

CLIENT_GONE = 499
"""The status of a request whose client left before the answer: nginx's number for it, which is never sent."""


_REQUEST_BOUNDS = families.REQUEST_SECONDS.buckets
_Words: TypeAlias = "tuple[memoryview[int], int, memoryview[int], memoryview[float], int]"
"""A counter and its place; a histogram's counts, its sum, and the place of the sum, which is in front."""


class Counter:
    """A number that only grows."""

    __slots__ = ("_at", "_integers")

    def __init__(self, block: Block, family: Family, *labels: str) -> None:
        self._integers, _, self._at = block.series(family.key(*labels), family.words)

    def inc(self, count: int = 1) -> None:
        """One more, or so many."""
        self._integers[self._at] += count


class Gauge:
    """A number that is what it is now."""

    __slots__ = ("_at", "_floats")

    def __init__(self, block: Block, family: Family, *labels: str) -> None:
        _, self._floats, self._at = block.series(family.key(*labels), family.words)

    def set(self, value: float) -> None:
        """It is this now."""
        self._floats[self._at] = value


class Histogram:
    """How many values were how large: a count for each bucket, the last for what is over all, and the sum."""

    __slots__ = ("_at", "_bounds", "_counts_at", "_floats", "_integers")

    def __init__(self, block: Block, family: Family, *labels: str) -> None:
        self._integers, self._floats, self._at = block.series(family.key(*labels), family.words)
        self._counts_at = self._at + 1
        self._bounds = family.buckets

    def observe(self, value: float) -> None:
        """Count a value."""
        self._integers[self._counts_at + bisect_left(self._bounds, value)] += 1
        self._floats[self._at] += value

    def observe_since(self, now: float, moments: Iterable[float]) -> None:
        """Count for each of some moments how long ago it was, for half of what as many observations cost."""
        integers, counts_at, bounds, total = self._integers, self._counts_at, self._bounds, 0.0
        for moment in moments:
            value = now - moment
            integers[counts_at + bisect_left(bounds, value)] += 1
            total += value
        self._floats[self._at] += total

    def observe_each(self, value: float, count: int) -> None:
        """Count a value ``count`` times: that of something several requests had in common."""
        self._integers[self._counts_at + bisect_left(self._bounds, value)] += count
        self._floats[self._at] += value * count


class Answers:
    """How many requests were answered, and how fast.

    Args:
        block: of this process.
        name: the ``model`` of its series.

    Attributes:
        name: the same.
    """

    def __init__(self, block: Block, name: str) -> None:
        self.name = name
        self._block = block
        self._client_gone = Counter(block, families.CLIENT_GONE, name)
        self._answers: dict[str, dict[int, _Words]] = {}

    def answered(self, verb: str, status: int, seconds: float, entrypoint: str = "REST") -> None:
        """A request has its answer.

        Args:
            verb: ``predict``, ``explain``, ``classify``, ``regress`` or ``other``; by gRPC also
                ``multi_inference``.
            status: of the answer; 499 if the client has left. For gRPC, that which REST has for its code.
            seconds: from its head to its answer.
            entrypoint: ``REST`` or ``GRPC``; only TensorFlow Serving's page tells.
        """
        # What `inc` and `observe` do, by hand: 0.28 us instead of 0.37, and every request comes here.
        try:
            words, at, times, floats, sum_at = self._answers[verb][status]
        except KeyError:
            words, at, times, floats, sum_at = self._meet(verb, status)
        words[at] += 1
        times[sum_at + 1 + bisect_left(_REQUEST_BOUNDS, seconds)] += 1
        floats[sum_at] += seconds
        if status == CLIENT_GONE:
            self._client_gone.inc()

    def _meet(self, verb: str, status: int) -> _Words:
        """Where a verb and a status that come for the first time are counted."""
        count, seconds = families.REQUESTS, families.REQUEST_SECONDS
        words, _, at = self._block.series(count.key(self.name, verb, str(status)), count.words)
        times, floats, sum_at = self._block.series(seconds.key(self.name, verb), seconds.words)
        found = self._answers.setdefault(verb, {})[status] = words, at, times, floats, sum_at
        return found


class ModelMetrics(Answers):
    """What is counted of one model. Made by ``Metrics.model``.

    Attributes:
        preprocess_seconds: histogram of the hook's time; so are ``predict_seconds``, ``explain_seconds`` and
            ``postprocess_seconds``.
        queue: gauge of the requests that wait for the model in this process.
        queue_wait_seconds: histogram of how long they have waited.
        batch_size: histogram of the instances in one call.
        shed: counter of requests that were refused for a full queue.
        timed_out: counter of requests that were not answered in their time.
        ready: gauge, 1 when the model can take requests in this process, else 0.
    """

    def __init__(self, block: Block, name: str) -> None:
        super().__init__(block, name)
        self.preprocess_seconds = Histogram(block, families.PREPROCESS_SECONDS, name)
        self.predict_seconds = Histogram(block, families.PREDICT_SECONDS, name)
        self.explain_seconds = Histogram(block, families.EXPLAIN_SECONDS, name)
        self.postprocess_seconds = Histogram(block, families.POSTPROCESS_SECONDS, name)
        self.queue = Gauge(block, families.QUEUE_LENGTH, name)
        self.queue_wait_seconds = Histogram(block, families.QUEUE_WAIT_SECONDS, name)
        self.batch_size = Histogram(block, families.BATCH_SIZE, name)
        self.shed = Counter(block, families.SHED, name)
        self.timed_out = Counter(block, families.TIMED_OUT, name)
        self.ready = Gauge(block, families.MODEL_READY, name)
        self._meet("predict", 200)  # a rate wants the 0 that it grew from

    @cached_property
    def versions_available(self) -> Gauge:
        """How many versions can be asked in this process; a model without versions has no such series."""
        return Gauge(self._block, families.MODEL_VERSIONS, self.name)

    @cached_property
    def newest_version(self) -> Gauge:
        """The number of the newest of them; 0 if there is none."""
        return Gauge(self._block, families.MODEL_NEWEST_VERSION, self.name)

    def loaded(self, seconds: float) -> None:
        """A load has succeeded: what failed before is over.

        Args:
            seconds: that it took.
        """
        Gauge(self._block, families.MODEL_LOAD_SECONDS, self.name).set(seconds)
        self._end_load_errors()
        Counter(self._block, tfs_families.LOAD_ATTEMPTS, self.name, "success").inc()
        Counter(self._block, tfs_families.LOAD_LATENCY, self.name).inc(int(seconds * 1e6))

    def load_failed(self, error: BaseException) -> None:
        """A load has failed. Only the error's class is told: its text is in the log, and may hold a path."""
        kind = type(error).__name__
        Counter(self._block, families.MODEL_LOAD_FAILURES, self.name, kind).inc()
        self._end_load_errors()
        Gauge(self._block, families.MODEL_LOAD_ERROR, self.name, kind).set(1)
        Counter(self._block, tfs_families.LOAD_ATTEMPTS, self.name, "fail").inc()

    def version_loaded(self, number: int, seconds: float) -> None:
        """A version of the model has been loaded, in so many seconds; ``loaded`` is called for it as well.

        Its number is no label: there would be a new series for each version, for ever.
        """
        Counter(self._block, families.MODEL_VERSION_LOADS, self.name, "loaded").inc()

    def version_failed(self, number: int, error: BaseException) -> None:
        """A version of the model could not be loaded; ``load_failed`` is called for it as well."""
        Counter(self._block, families.MODEL_VERSION_LOADS, self.name, "failed").inc()

    def show_versions(self, numbers: Iterable[int]) -> None:
        """These versions, and no others, can be asked in this process now."""
        available = list(numbers)
        self.versions_available.set(len(available))
        self.newest_version.set(max(available, default=0))

    def warmed_up(self, seconds: float, status: str = "OK") -> None:
        """A warm-up has ended.

        Args:
            seconds: that it took.
            status: ``OK``, or the name of TensorFlow's code for what went wrong.
        """
        family = tfs_families.WARMUP_LATENCY
        Histogram(self._block, family, self.name, status).observe(int(seconds * 1e6))

    def examples(self, count: int) -> None:
        """A classify or regress request about so many examples was answered; counted where that is shown."""

    def _end_load_errors(self) -> None:
        """Also those of the process that had the block before, which may have died of one."""
        any_error = families.MODEL_LOAD_ERROR.key(self.name, "").removesuffix(b'"}')
        for key in self._block.known():
            if key.startswith(any_error):
                _, floats, at = self._block.series(key, families.MODEL_LOAD_ERROR.words)
                floats[at] = 0


class Metrics:
    """What one process counts.

    Args:
        memory: shared with the other processes. Default: this process's own.
        number: of this process's block: a worker's number, or ``MetricMemory.SUPERVISOR``.

    Attributes:
        memory: the same.
        models: by name, those that ``model`` has made.
        unknown: for requests that are for no model.
        in_flight: gauge of the requests taken and not answered yet.
        connections: gauge of the open connections.
        workers: gauge of the worker processes, written by the one who watches them; so is ``workers_ready``.
        worker_restarts: counter of workers that were started in the place of another.
    """

    def __init__(self, memory: MetricMemory | None = None, number: int = 0) -> None:
        self.memory = MetricMemory(1) if memory is None else memory
        self._block = block = Block(self.memory, number)
        self.models: dict[str, ModelMetrics] = {}
        self._kind = ModelMetrics
        self.unknown = Answers(block, UNKNOWN)
        self.in_flight = Gauge(block, families.IN_FLIGHT)
        self.connections = Gauge(block, families.CONNECTIONS)
        self.workers = Gauge(block, families.WORKERS)
        self.workers_ready = Gauge(block, families.WORKERS_READY)
        self.worker_restarts = Counter(block, families.WORKER_RESTARTS)

    def model(self, name: str) -> ModelMetrics:
        """What is counted of a registered model; made once."""
        metrics = self.models.get(name)
        if metrics is None:
            metrics = self.models[name] = self._kind(self._block, name)
        return metrics

    def count_more(self, kind: type[ModelMetrics]) -> None:
        """Count with this class from now on; to be called before models have what they count with."""
        if kind is not self._kind:
            self._kind = kind
            self.models.clear()

    def refused(self, status: int) -> None:
        """Bytes that could not become a request were answered with this status."""
        Counter(self._block, families.HTTP_REFUSED, str(status)).inc()

    def worker_ended(self, number: int) -> None:
        """The worker with this number is gone: what it counted stays, what it had in hand is no more."""
        self.memory.clear(number, _ends)


def _ends(key: bytes) -> bool:
    family = families.family_of(key)
    return family is not None and family.ends

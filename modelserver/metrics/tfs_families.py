"""What TensorFlow Serving's page of metrics shows: its names, labels and buckets.

Rules of the room: the list. Times are in whole microseconds there. A name is the path that TensorFlow has for
a metric, with ``:`` in place of ``/``. Families in ``COUNTED`` are counted in shared memory; the others
are worked out from ``families`` when somebody looks (``tfs_exposition``).
"""

from __future__ import annotations

from collections.abc import Mapping

from modelserver.metrics.families import BATCH_SIZE, Family


def _exponential(scale: float, growth: float, count: int) -> tuple[float, ...]:
    return tuple(scale * growth**power for power in range(count))


_MICROS = _exponential(10, 1.8, 33)
_SERVING = ":tensorflow:serving:"
_BATCHING = ":tensorflow:serving:batching_session:"
_LOADING = ":tensorflow:cc:saved_model:"

REQUEST_COUNT = Family(
    f"{_SERVING}request_count", "counter", ("model_name", "status"), "Requests by their outcome."
)
REQUEST_LATENCY = Family(
    f"{_SERVING}request_latency",
    "histogram",
    ("model_name", "API", "entrypoint"),
    "Time of the requests that were answered well.",
    _MICROS,
)
RUNTIME_LATENCY = Family(
    f"{_SERVING}runtime_latency",
    "histogram",
    ("model_name", "API"),  # and `runtime`, which the page knows
    "Time of the model's own call.",
    _MICROS,
)
EXAMPLE_COUNTS = Family(
    f"{_SERVING}request_example_counts",
    "histogram",
    ("model",),
    "Examples in a classify or regress request.",
    _exponential(1, 2, 15),
)
EXAMPLE_COUNT_TOTAL = Family(
    f"{_SERVING}request_example_count_total", "counter", ("model",), "Examples that were asked about."
)
WARMUP_LATENCY = Family(
    f"{_SERVING}model_warmup_latency",
    "histogram",
    ("model_path", "status"),
    "Time of a model's warm-up.",
    _MICROS,
)
QUEUING_LATENCY = Family(
    f"{_BATCHING}queuing_latency",
    "histogram",
    ("thread_pool_name",),
    "Time that a request waited for its batch.",
    _exponential(100, 1.2, 52),
)
WRAPPED_RUN_COUNT = Family(f"{_BATCHING}wrapped_run_count", "counter", (), "Batches that were run.")
PROCESSED_BATCH_SIZE = Family(
    f"{_BATCHING}processed_batch_size", "histogram", (), "Instances in a batch.", BATCH_SIZE.buckets
)
LOAD_ATTEMPTS = Family(
    f"{_LOADING}load_attempt_count", "counter", ("model_path", "status"), "Loads by their outcome."
)
LOAD_LATENCY = Family(
    f"{_LOADING}load_latency", "counter", ("model_path",), "Time of all loads that succeeded."
)
GRAPH_RUNS = Family(":tensorflow:core:graph_runs", "counter", (), "Calls of models.")

COUNTED: Mapping[str, Family] = {
    family.name: family
    for family in (
        *(REQUEST_LATENCY, RUNTIME_LATENCY, EXAMPLE_COUNTS, EXAMPLE_COUNT_TOTAL, WARMUP_LATENCY),
        *(QUEUING_LATENCY, LOAD_ATTEMPTS, LOAD_LATENCY),
    )
}
"""Those that are counted in shared memory."""

SHOWN: Mapping[str, Family] = {
    family.name: family
    for family in sorted(
        (*COUNTED.values(), REQUEST_COUNT, GRAPH_RUNS, WRAPPED_RUN_COUNT, PROCESSED_BATCH_SIZE),
        key=lambda family: family.name,
    )
}
"""Those on the page, in its order."""

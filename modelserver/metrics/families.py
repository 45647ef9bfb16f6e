"""Every metric that is counted: its name, labels, meaning and buckets.

Rules of the room: the list, and how a series is named. A metric of another kind, asked from the system when
somebody looks, is in ``exposition``. docs/metrics.md explains them all. What only TensorFlow Serving's page
shows is in ``tfs_families``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

_MOST_LABEL_CHARACTERS = 200


class Family(NamedTuple):
    """A metric: one name, and a series for each set of label values."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    merge: Literal["sum", "max"] = "sum"
    """What a value is over all workers."""
    ends: bool = False
    """It is about a process at this moment: 0 when the process has ended."""

    @property
    def words(self) -> int:
        """How many words a series takes."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1

    def key(self, *values: str) -> bytes:
        """The name of a series, as the text format writes it: ``name{label="value"}``."""
        pairs = [f'{label}="{escaped(value)}"' for label, value in zip(self.labels, values, strict=True)]
        return (f"{self.name}{{{','.join(pairs)}}}" if pairs else self.name).encode()


def escaped(value: str) -> str:
    """A label's value, as the text format quotes it; a lone surrogate, which no UTF-8 has, as ``?``."""
    value = value[:_MOST_LABEL_CHARACTERS].encode(errors="replace").decode()
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


# From 5 ms on those of prometheus-client and so of KServe: queries written for KServe find every `le`. A
# small model answers in less, so some are below.
_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025),
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_LONG_SECONDS = (*_SECONDS, 30.0, 60.0, 120.0)
_SIZES = tuple(float(1 << power) for power in range(11))
_KSERVE = ("model_name",)
_MODEL = ("model",)

PREPROCESS_SECONDS = Family(
    "request_preprocess_seconds", "histogram", _KSERVE, "Time of the preprocess hook.", _SECONDS
)
PREDICT_SECONDS = Family(
    "request_predict_seconds", "histogram", _KSERVE, "Time of the predict hook.", _SECONDS
)
EXPLAIN_SECONDS = Family(
    "request_explain_seconds", "histogram", _KSERVE, "Time of the explain hook.", _SECONDS
)
POSTPROCESS_SECONDS = Family(
    "request_postprocess_seconds", "histogram", _KSERVE, "Time of the postprocess hook.", _SECONDS
)
REQUESTS = Family("modelserver_requests_total", "counter", ("model", "verb", "status"), "Requests answered.")
REQUEST_SECONDS = Family(
    "modelserver_request_seconds",
    "histogram",
    ("model", "verb"),
    "Time from a request's head to its whole answer.",
    _LONG_SECONDS,
)
IN_FLIGHT = Family(
    "modelserver_requests_in_flight", "gauge", (), "Requests taken and not answered yet.", ends=True
)
QUEUE_LENGTH = Family(
    "modelserver_queue_length", "gauge", _MODEL, "Requests that wait for an answer of the model.", ends=True
)
QUEUE_WAIT_SECONDS = Family(
    "modelserver_queue_wait_seconds",
    "histogram",
    _MODEL,
    "Time a request waited before the model took it.",
    _LONG_SECONDS,
)
BATCH_SIZE = Family(
    "modelserver_batch_size", "histogram", _MODEL, "Instances in one call of a model that batches.", _SIZES
)
SHED = Family(
    "modelserver_requests_shed_total", "counter", _MODEL, "Requests refused with 503 for a full queue."
)
TIMED_OUT = Family(
    "modelserver_requests_timed_out_total", "counter", _MODEL, "Requests answered 504: past their time."
)
CLIENT_GONE = Family(
    "modelserver_client_gone_total", "counter", _MODEL, "Requests whose client left before the answer."
)
MODEL_READY = Family(
    "modelserver_model_ready", "gauge", _MODEL, "Workers in which the model can take requests.", ends=True
)
MODEL_LOAD_SECONDS = Family(
    "modelserver_model_load_seconds",
    "gauge",
    _MODEL,
    "Time of the last load, in the worker that took longest.",
    merge="max",
)
MODEL_LOAD_FAILURES = Family(
    "modelserver_model_load_failures_total", "counter", ("model", "error"), "Loads that failed."
)
MODEL_LOAD_ERROR = Family(
    "modelserver_model_load_error", "gauge", ("model", "error"), "Workers whose last load failed so."
)
MODEL_VERSION_LOADS = Family(
    "modelserver_model_version_loads_total",
    "counter",
    ("model", "result"),
    "Versions of a model that were loaded, or failed to.",
)
MODEL_VERSIONS = Family(
    "modelserver_model_versions",
    "gauge",
    _MODEL,
    "Versions that can be asked, in the worker with most.",
    merge="max",
    ends=True,
)
MODEL_NEWEST_VERSION = Family(
    "modelserver_model_newest_version",
    "gauge",
    _MODEL,
    "Number of the newest version that can be asked, in the worker with the newest.",
    merge="max",
    ends=True,
)
HTTP_REFUSED = Family(
    "modelserver_http_refused_total",
    "counter",
    ("status",),
    "Bytes that became no request: bad or late HTTP.",
)
CONNECTIONS = Family("modelserver_connections", "gauge", (), "Open connections.", ends=True)
WORKERS = Family("modelserver_workers", "gauge", (), "Worker processes that run.")
WORKERS_READY = Family("modelserver_workers_ready", "gauge", (), "Workers whose models are loaded.")
WORKER_RESTARTS = Family(
    "modelserver_worker_restarts_total", "counter", (), "Workers started in the place of another."
)

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        *(PREPROCESS_SECONDS, PREDICT_SECONDS, EXPLAIN_SECONDS, POSTPROCESS_SECONDS),
        *(REQUESTS, REQUEST_SECONDS, IN_FLIGHT, QUEUE_LENGTH, QUEUE_WAIT_SECONDS, BATCH_SIZE),
        *(SHED, TIMED_OUT, CLIENT_GONE),
        *(MODEL_READY, MODEL_LOAD_SECONDS, MODEL_LOAD_FAILURES, MODEL_LOAD_ERROR),
        *(MODEL_VERSION_LOADS, MODEL_VERSIONS, MODEL_NEWEST_VERSION),
        *(HTTP_REFUSED, CONNECTIONS, WORKERS, WORKERS_READY, WORKER_RESTARTS),
    )
}
"""Those that are counted in shared memory; ``exposition`` adds what it asks the system for."""


def family_of(key: bytes, families: Mapping[str, Family] = FAMILIES) -> Family | None:
    """The family of a series, if it is one of these; ``None`` for any other, such as one of another version
    of this program."""
    return families.get(key.partition(b"{")[0].decode())

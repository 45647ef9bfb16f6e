"""The page of metrics that TensorFlow Serving has: its names, its text, summed over all processes.

Rules of the room: reading and text, as in ``exposition``. The text is that of TensorFlow Serving's own
exporter, as far as anything that reads it can tell: no help, ``{}`` behind a name without labels, bounds with
six digits. A dashboard may ask for ``le="708235"``, and a program may look for a whole line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from modelserver.metrics import families, tfs_families
from modelserver.metrics.exposition import Totals
from modelserver.metrics.families import Family
from modelserver.metrics.memory import MetricMemory

TEXT_TYPE = "text/plain"
"""Content-Type of the page."""

_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""TensorFlow's codes by the status that REST has for them."""

_Values = list[float]
_Lines = dict[str, _Values]
"""A series' labels, as they are written, and its values."""


class TFSExposition:
    """Writes the page.

    Args:
        memory: of all processes.
        platforms: says what runs each model, by its name: ``Model.platform``.
    """

    def __init__(self, memory: MetricMemory, platforms: Callable[[], Mapping[str, str]]) -> None:
        read = (families.REQUESTS, families.BATCH_SIZE)
        self._totals = Totals(memory, {**tfs_families.COUNTED, **{family.name: family for family in read}})
        self._platforms = platforms

    def text(self) -> str:
        """All metrics, as they are now."""
        totals = self._totals.read()
        sizes = totals.get(families.BATCH_SIZE.name, {})
        runs = totals.get(tfs_families.RUNTIME_LATENCY.name, {})
        batches = _added(sizes)
        worked_out: dict[str, _Lines] = {
            tfs_families.REQUEST_COUNT.name: _request_counts(totals.get(families.REQUESTS.name, {})),
            tfs_families.RUNTIME_LATENCY.name: self._with_runtime(runs),
            tfs_families.GRAPH_RUNS.name: {"": [_runs(runs, sizes)]},
            tfs_families.WRAPPED_RUN_COUNT.name: {"": [sum(batches[1:])]},
            tfs_families.PROCESSED_BATCH_SIZE.name: {"": batches},
        }
        lines: list[str] = []
        for name, family in tfs_families.SHOWN.items():
            lines.append(f"# TYPE {name} {family.kind}")
            series = worked_out.get(name)
            if series is None:
                series = {_labels(family, key): values for key, values in totals.get(name, {}).items()}
            for labels, values in sorted(series.items()):
                lines += _samples(family, labels, values)
        return "\n".join(lines) + "\n"

    def _with_runtime(self, counted: Mapping[bytes, _Values]) -> _Lines:
        """The times of runs with the label ``runtime``, which nobody who counts needs to know."""
        runtimes = {
            f'model_name="{families.escaped(name)}"': runtime(platform)
            for name, platform in self._platforms().items()
        }
        lines: _Lines = {}
        for key, values in counted.items():
            labels = _labels(tfs_families.RUNTIME_LATENCY, key)
            model = labels.rpartition(",")[0]
            lines[f'{labels},runtime="{runtimes.get(model, "unknown")}"'] = values
        return lines


def runtime(platform: str) -> str:
    """The label ``runtime``: what TensorFlow Serving says of SavedModels, else what runs the model.

    >>> runtime("tensorflow_savedmodel"), runtime("pytorch"), runtime("")
    ('TF1', 'pytorch', 'python')
    """
    return "TF1" if platform.startswith("tensorflow") else platform or "python"


def _request_counts(requests: Mapping[bytes, _Values]) -> _Lines:
    """``modelserver_requests_total`` by model and code, without what is for no verb of a model."""
    lines: _Lines = {}
    for key, (count,) in requests.items():
        rest, _, status = _labels(families.REQUESTS, key).removesuffix('"').rpartition('",status="')
        model, _, verb = rest.rpartition('",verb="')
        if verb != "other":
            labels = f'model_name="{model.removeprefix(_MODEL)}",status="{code(int(status))}"'
            lines.setdefault(labels, [0.0])[0] += count
    return lines


_MODEL = 'model="'


def code(status: int) -> str:
    """The name of TensorFlow's code for an answer with this status.

    >>> code(200), code(404), code(405), code(507)
    ('OK', 'NOT_FOUND', 'INVALID_ARGUMENT', 'INTERNAL')
    """
    if status < 400:
        return "OK"
    return _CODES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")


def _runs(run_times: Mapping[bytes, _Values], batch_sizes: Mapping[bytes, _Values]) -> float:
    """How often models were called: once for each batch, or each request to a model that makes no batches."""
    runs, batching = 0.0, set()
    for key, values in batch_sizes.items():
        batches = sum(values[1:])
        if batches:
            batching.add(_labels(families.BATCH_SIZE, key).replace("model=", "model_name=", 1))
            runs += batches
    for key, values in run_times.items():
        model, _, api = _labels(tfs_families.RUNTIME_LATENCY, key).rpartition(",")
        if model not in batching or api != 'API="Predict"':
            runs += sum(values[1:])
    return runs


def _added(series: Mapping[bytes, _Values]) -> _Values:
    """Histograms of batches of several models in one."""
    nothing = [0.0] * families.BATCH_SIZE.words
    return list(map(sum, zip(nothing, *series.values(), strict=True)))


def _labels(family: Family, key: bytes) -> str:
    """The labels in a series' name, without their braces."""
    return key.decode()[len(family.name) + 1 : -1]


def _samples(family: Family, labels: str, values: _Values) -> Iterator[str]:
    """The lines of a series."""
    if family.kind != "histogram":
        yield f"{family.name}{{{labels}}} {_number(values[0])}"
        return
    count, prefix = 0.0, f"{labels}," if labels else ""
    for bound, in_bucket in zip(_BOUNDS[family.name], values[1:], strict=True):
        count += in_bucket
        yield f'{family.name}_bucket{{{prefix}le="{bound}"}} {_number(count)}'
    yield f"{family.name}_sum{{{labels}}} {_number(values[0])}"
    yield f"{family.name}_count{{{labels}}} {_number(count)}"


def _number(value: float) -> str:
    # TensorFlow Serving's sums have six digits, so that large ones stand still. Not here.
    return f"{value:.15g}"


_BOUNDS = {
    family.name: (*(f"{bound:g}" for bound in family.buckets), "+Inf")
    for family in tfs_families.SHOWN.values()
}

"""TensorFlow Serving's page: its names and its text, with the right numbers in them, over all processes."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelserver.metrics import tfs_families
from modelserver.metrics.counting import Metrics
from modelserver.metrics.exposition import Exposition
from modelserver.metrics.memory import MetricMemory
from modelserver.metrics.tfs_counting import TFSModelMetrics
from modelserver.metrics.tfs_exposition import TFSExposition

SERVING = ":tensorflow:serving:"
BATCHING = ":tensorflow:serving:batching_session:"
PLATFORMS = {"iris": "tensorflow_savedmodel", "net": "pytorch", "own": ""}
# The bounds of a latency on a page that a real server has shown, from 1 s up.
FROM_A_SECOND = (
    *(
        "1.27482e+06",
        "2.29468e+06",
        "4.13043e+06",
        "7.43477e+06",
        "1.33826e+07",
        "2.40887e+07",
        "4.33596e+07",
    ),
    *("7.80473e+07", "1.40485e+08", "2.52873e+08", "4.55172e+08", "8.19309e+08", "1.47476e+09", "+Inf"),
)


@pytest.fixture
def memory():
    return MetricMemory(3)


def counting(memory, number=0):
    metrics = Metrics(memory, number)
    metrics.count_more(TFSModelMetrics)
    return metrics


def page(memory):
    return TFSExposition(memory, lambda: PLATFORMS).text()


def samples(memory):
    """Every line of the page: what is in front of the number, and the number's text."""
    lines = [line.rpartition(" ") for line in page(memory).splitlines() if not line.startswith("#")]
    found = {name: number for name, _, number in lines}
    assert len(found) == len(lines)
    return found


def test_the_whole_page_but_buckets(memory):
    metrics = counting(memory)
    iris = metrics.model("iris")
    iris.loaded(1.5)
    iris.load_failed(ValueError())
    iris.warmed_up(0.25)
    for status in (200, 200, 400, 503):
        iris.answered("predict", status, 0.25)
    iris.answered("classify", 200, 0.5)
    iris.examples(3)
    iris.answered("predict", 200, 0.125, "GRPC")
    iris.predict_seconds.observe_each(0.0625, 2)
    iris.classify_seconds.observe_each(0.0625, 1)
    iris.queue_wait_seconds.observe_since(10.0, [9.75, 9.5])
    iris.queue_wait_seconds.observe(5.0)  # for a thread, not for a batch
    iris.batch_size.observe(5)
    metrics.unknown.answered("predict", 404, 0.1)
    metrics.unknown.answered("other", 404, 0.1)
    shown = [line for line in page(memory).splitlines() if "_bucket{" not in line]
    assert shown == [
        "# TYPE :tensorflow:cc:saved_model:load_attempt_count counter",
        ':tensorflow:cc:saved_model:load_attempt_count{model_path="iris",status="fail"} 1',
        ':tensorflow:cc:saved_model:load_attempt_count{model_path="iris",status="success"} 1',
        "# TYPE :tensorflow:cc:saved_model:load_latency counter",
        ':tensorflow:cc:saved_model:load_latency{model_path="iris"} 1500000',
        "# TYPE :tensorflow:core:graph_runs counter",
        ":tensorflow:core:graph_runs{} 2",
        f"# TYPE {BATCHING}processed_batch_size histogram",
        f"{BATCHING}processed_batch_size_sum{{}} 5",
        f"{BATCHING}processed_batch_size_count{{}} 1",
        f"# TYPE {BATCHING}queuing_latency histogram",
        f'{BATCHING}queuing_latency_sum{{thread_pool_name="iris"}} 750000',
        f'{BATCHING}queuing_latency_count{{thread_pool_name="iris"}} 2',
        f"# TYPE {BATCHING}wrapped_run_count counter",
        f"{BATCHING}wrapped_run_count{{}} 1",
        f"# TYPE {SERVING}model_warmup_latency histogram",
        f'{SERVING}model_warmup_latency_sum{{model_path="iris",status="OK"}} 250000',
        f'{SERVING}model_warmup_latency_count{{model_path="iris",status="OK"}} 1',
        f"# TYPE {SERVING}request_count counter",
        f'{SERVING}request_count{{model_name="iris",status="INVALID_ARGUMENT"}} 1',
        f'{SERVING}request_count{{model_name="iris",status="OK"}} 4',
        f'{SERVING}request_count{{model_name="iris",status="UNAVAILABLE"}} 1',
        f'{SERVING}request_count{{model_name="unknown",status="NOT_FOUND"}} 1',
        f"# TYPE {SERVING}request_example_count_total counter",
        f'{SERVING}request_example_count_total{{model="iris"}} 3',
        f"# TYPE {SERVING}request_example_counts histogram",
        f'{SERVING}request_example_counts_sum{{model="iris"}} 3',
        f'{SERVING}request_example_counts_count{{model="iris"}} 1',
        f"# TYPE {SERVING}request_latency histogram",
        f'{SERVING}request_latency_sum{{model_name="iris",API="Predict",entrypoint="GRPC"}} 125000',
        f'{SERVING}request_latency_count{{model_name="iris",API="Predict",entrypoint="GRPC"}} 1',
        f'{SERVING}request_latency_sum{{model_name="iris",API="classify",entrypoint="REST"}} 500000',
        f'{SERVING}request_latency_count{{model_name="iris",API="classify",entrypoint="REST"}} 1',
        f'{SERVING}request_latency_sum{{model_name="iris",API="predict",entrypoint="REST"}} 500000',
        f'{SERVING}request_latency_count{{model_name="iris",API="predict",entrypoint="REST"}} 2',
        f"# TYPE {SERVING}runtime_latency histogram",
        f'{SERVING}runtime_latency_sum{{model_name="iris",API="Classify",runtime="TF1"}} 62500',
        f'{SERVING}runtime_latency_count{{model_name="iris",API="Classify",runtime="TF1"}} 1',
        f'{SERVING}runtime_latency_sum{{model_name="iris",API="Predict",runtime="TF1"}} 125000',
        f'{SERVING}runtime_latency_count{{model_name="iris",API="Predict",runtime="TF1"}} 2',
    ]


@pytest.mark.parametrize(
    ("name", "bounds", "last"),
    [
        (f"{SERVING}request_latency", 33, FROM_A_SECOND),
        (f"{SERVING}runtime_latency", 33, FROM_A_SECOND),
        (f"{SERVING}model_warmup_latency", 33, FROM_A_SECOND),
        (f"{BATCHING}queuing_latency", 52, ("1.09205e+06", "+Inf")),
        (f"{SERVING}request_example_counts", 15, ("8192", "16384", "+Inf")),
        (f"{BATCHING}processed_batch_size", 11, ("512", "1024", "+Inf")),
    ],
)
def test_bounds_are_written_as_tensorflow_serving_writes_them(memory, name, bounds, last):
    iris = counting(memory).model("iris")
    iris.warmed_up(1.0)
    iris.examples(1)
    iris.queue_wait_seconds.observe_since(1.0, [0.5])
    found = re.findall(rf'^{name}_bucket{{.*?le="(.*?)"}} ', page(memory), re.MULTILINE)
    assert len(found) == bounds + 1
    assert tuple(found[-len(last) :]) == last
    if bounds == 33:
        assert found[:5] == ["10", "18", "32.4", "58.32", "104.976"]
        assert "708235" in found  # which a dashboard asks for


def test_a_value_is_in_its_bucket(memory):
    iris = counting(memory).model("iris")
    for micros in (9, 10, 11, 708_000, 709_000, 1e10):
        iris.answered("predict", 200, micros / 1e6)
    found = samples(memory)

    def count(bound):
        labels = f'model_name="iris",API="predict",entrypoint="REST",le="{bound}"'
        return found[f"{SERVING}request_latency_bucket{{{labels}}}"]

    bounds = ("10", "18", "393464", "708235", "1.27482e+06", "+Inf")
    assert [count(bound) for bound in bounds] == ["2", "3", "3", "4", "5", "6"]


def test_waits_for_a_batch_are_in_their_buckets(memory):
    counting(memory).model("iris").queue_wait_seconds.observe_since(1.0, [0.99989, 0.99, 0.0])
    found = samples(memory)
    bucket = f'{BATCHING}queuing_latency_bucket{{thread_pool_name="iris",le="%s"}}'
    bounds = ("100", "120", "9539.62", "11447.5", "910044", "1.09205e+06", "+Inf")
    assert [found[bucket % bound] for bound in bounds] == ["0", "1", "1", "2", "2", "3", "3"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, "OK"),
        (400, "INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (409, "ABORTED"),
        (415, "INVALID_ARGUMENT"),
        (429, "RESOURCE_EXHAUSTED"),
        (499, "CANCELLED"),
        (500, "INTERNAL"),
        (501, "UNIMPLEMENTED"),
        (502, "INTERNAL"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
def test_a_status_is_its_code_and_only_good_answers_have_a_time(memory, status, code):
    iris = counting(memory).model("iris")
    iris.answered("predict", status, 0.1)
    found = samples(memory)
    assert found[f'{SERVING}request_count{{model_name="iris",status="{code}"}}'] == "1"
    latencies = f'{SERVING}request_latency_count{{model_name="iris",API="predict",entrypoint="REST"}}'
    assert found[latencies] == ("1" if status == 200 else "0")


@pytest.mark.parametrize(
    ("verb", "entrypoint", "api"),
    [
        ("regress", "REST", "regress"),
        ("explain", "REST", "explain"),
        ("regress", "GRPC", "Regress"),
        ("multi_inference", "GRPC", "MultiInference"),
    ],
)
def test_verbs_have_tensorflow_serving_s_names(memory, verb, entrypoint, api):
    counting(memory).model("iris").answered(verb, 200, 0.1, entrypoint)
    labels = f'model_name="iris",API="{api}",entrypoint="{entrypoint}"'
    assert samples(memory)[f"{SERVING}request_latency_count{{{labels}}}"] == "1"


def test_what_runs_a_model_is_a_label_of_its_times(memory):
    metrics = counting(memory)
    for name in (*PLATFORMS, "gone"):
        metrics.model(name)
    found = re.findall(r'latency_count\{model_name="(\w+)",API="Predict",runtime="(\w+)"\}', page(memory))
    assert dict(found) == {"iris": "TF1", "net": "pytorch", "own": "python", "gone": "unknown"}


def test_calls_are_batches_and_requests_to_models_without_batches(memory):
    metrics = counting(memory)
    batching, plain = metrics.model("iris"), metrics.model("net")
    for size in (2, 3):
        batching.batch_size.observe(size)
        batching.predict_seconds.observe_each(0.1, size)
    batching.regress_seconds.observe_each(0.1, 1)
    for _ in range(7):
        plain.predict_seconds.observe_each(0.1, 1)
    assert samples(memory)[":tensorflow:core:graph_runs{}"] == str(2 + 1 + 7)
    assert samples(memory)[f"{BATCHING}wrapped_run_count{{}}"] == "2"


def test_the_page_is_the_sum_of_all_processes(memory):
    for number in range(3):
        iris = counting(memory, number).model("iris")
        iris.answered("predict", 200, 0.25)
        iris.predict_seconds.observe_each(0.25, 1)
        iris.batch_size.observe(4)
        iris.loaded(0.5)
    Metrics(memory, memory.SUPERVISOR).model("iris").loaded(0.5)  # which counts no requests
    Metrics(memory, memory.SUPERVISOR).worker_ended(1)
    found = samples(memory)
    assert found[f'{SERVING}request_count{{model_name="iris",status="OK"}}'] == "3"
    rest = 'model_name="iris",API="predict",entrypoint="REST"'
    assert found[f"{SERVING}request_latency_sum{{{rest}}}"] == "750000"
    assert found[f'{SERVING}request_latency_bucket{{{rest},le="393464"}}'] == "3"
    assert found[f'{SERVING}runtime_latency_count{{model_name="iris",API="Predict",runtime="TF1"}}'] == "3"
    assert found[f"{BATCHING}processed_batch_size_sum{{}}"] == "12"
    assert found[':tensorflow:cc:saved_model:load_latency{model_path="iris"}'] == "2000000"


def test_neither_page_has_a_name_of_the_other(memory):
    iris = counting(memory).model("iris")
    iris.answered("predict", 200, 0.1)
    iris.loaded(1.0)
    assert ":tensorflow" not in Exposition(memory).text()
    theirs = re.findall(r"^[^#{ ]+", page(memory), re.MULTILINE)
    assert theirs
    assert all(name.startswith(":tensorflow:") for name in theirs)


def test_where_the_page_is_off_nothing_of_a_request_is_counted_for_it(memory):
    iris = Metrics(memory).model("iris")
    iris.answered("predict", 200, 0.1, "GRPC")
    iris.predict_seconds.observe_each(0.1, 1)
    iris.queue_wait_seconds.observe_since(1.0, [0.5])
    iris.examples(3)
    assert not [key for key, *_ in memory.records(0) if key.startswith(b":")]


def test_both_count_the_same_for_our_own_page(memory):
    """What is counted by hand here is what the plain class counts."""

    def ask(model):
        for status in (200, 200, 404, 499):
            model.answered("predict", status, 0.25)
        model.answered("explain", 200, 0.5)
        model.predict_seconds.observe_each(0.25, 3)
        model.queue_wait_seconds.observe_since(10.0, [9.75, 5.0])

    ask(Metrics(memory).model("iris"))
    other = MetricMemory(3)
    ask(counting(other).model("iris"))

    def counted(memory):
        return [line for line in Exposition(memory).text().splitlines() if not line.startswith("process_")]

    assert counted(other) == counted(memory)


def test_a_class_may_be_changed_before_models_count(memory):
    metrics = counting(memory)
    iris = metrics.model("iris")
    metrics.count_more(TFSModelMetrics)
    assert metrics.model("iris") is iris


@pytest.mark.parametrize(
    "name", ['with "quotes"', "back\\slash", "line\nbreak", 'a",verb="b', "ümläut", "x" * 250]
)
def test_any_name_of_a_model_can_be_read_back(memory, name):
    metrics = counting(memory)
    metrics.model(name).answered("predict", 200, 0.1)
    text = TFSExposition(memory, lambda: {name: "pytorch"}).text()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (counted,) = families[f"{SERVING}request_count"].samples
    assert counted.labels == {"model_name": name[:200], "status": "OK"}
    labels = {sample.labels["runtime"] for sample in families[f"{SERVING}runtime_latency"].samples}
    assert labels == {"pytorch"}


def test_prometheus_finds_every_family_with_its_type(memory):
    found = {family.name: family.type for family in text_string_to_metric_families(page(memory))}
    shown = {name.removesuffix("_total"): family.kind for name, family in tfs_families.SHOWN.items()}
    assert found == shown


def test_names_that_no_model_has_are_one_label(memory):
    metrics = counting(memory)
    for _ in range(3):
        metrics.unknown.answered("predict", 404, 0.1)
        metrics.unknown.answered("classify", 404, 0.1, "GRPC")
        metrics.unknown.answered("other", 200, 0.1)  # pages are not counted here
    found = {name: count for name, count in samples(memory).items() if "request_count{" in name}
    assert found == {f'{SERVING}request_count{{model_name="unknown",status="NOT_FOUND"}}': "6"}


def test_a_full_block_fails_nothing():
    memory = MetricMemory(1, block_bytes=4096)
    metrics = counting(memory)
    for number in range(30):
        model = metrics.model(f"model-{number}")
        model.answered("predict", 200, 0.1)
        model.predict_seconds.observe_each(0.1, 1)
        model.queue_wait_seconds.observe_since(1.0, [0.5])
        model.examples(1)
    assert "# TYPE :tensorflow:serving:request_latency histogram" in page(memory)

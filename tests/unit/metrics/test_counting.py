"""What is counted, read back from the page as Prometheus would."""

import os

import pytest
from prometheus_client import Histogram as TheirHistogram
from prometheus_client.parser import text_string_to_metric_families

from modelserver.metrics import families
from modelserver.metrics.counting import Metrics
from modelserver.metrics.exposition import ASKED, Exposition
from modelserver.metrics.memory import MetricMemory
from modelserver.metrics.processes import look_at


def samples(memory):
    """Every sample of the page, by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(Exposition(memory).text())
        for sample in family.samples
    }


def value(memory, name, **labels):
    return samples(memory)[(name, *sorted(labels.items()))]


@pytest.fixture
def memory():
    return MetricMemory(3)


def test_answers_are_counted_by_model_verb_and_status(memory):
    metrics = Metrics(memory)
    iris = metrics.model("iris")
    for status in (200, 200, 400):
        iris.answered("predict", status, 0.25)
    iris.answered("explain", 200, 3.0)
    metrics.unknown.answered("predict", 404, 0.001)

    def requests(model, verb, status):
        return value(memory, "modelserver_requests_total", model=model, verb=verb, status=status)

    assert requests("iris", "predict", "200") == 2
    assert requests("iris", "predict", "400") == 1
    assert requests("iris", "explain", "200") == 1
    assert requests("unknown", "predict", "404") == 1
    seconds = "modelserver_request_seconds"
    assert value(memory, f"{seconds}_sum", model="iris", verb="predict") == 0.75
    assert value(memory, f"{seconds}_count", model="iris", verb="predict") == 3
    assert value(memory, f"{seconds}_bucket", model="iris", verb="predict", le="0.25") == 3
    assert value(memory, f"{seconds}_bucket", model="iris", verb="predict", le="0.1") == 0
    assert value(memory, f"{seconds}_sum", model="iris", verb="explain") == 3.0


def test_a_client_that_left_is_an_answer_499_and_counted_by_itself(memory):
    model = Metrics(memory).model("iris")
    model.answered("predict", 499, 1.0)
    model.answered("predict", 200, 1.0)
    assert value(memory, "modelserver_client_gone_total", model="iris") == 1
    assert value(memory, "modelserver_requests_total", model="iris", verb="predict", status="499") == 1


def test_a_model_is_there_from_the_start_with_zeros(memory):
    Metrics(memory).model("iris")
    page = samples(memory)
    assert (
        page[("modelserver_requests_total", ("model", "iris"), ("status", "200"), ("verb", "predict"))] == 0
    )
    assert page[("modelserver_queue_length", ("model", "iris"))] == 0
    assert page[("request_predict_seconds_count", ("model_name", "iris"))] == 0


def test_a_model_is_made_once(memory):
    metrics = Metrics(memory)
    assert metrics.model("iris") is metrics.model("iris")
    assert list(metrics.models) == ["iris"]


@pytest.mark.parametrize("seconds", [0.0, 0.0049, 0.005, 0.00501, 0.3, 10.0, 11.0, 1e6])
@pytest.mark.parametrize("hook", ["preprocess", "predict", "explain", "postprocess"])
def test_hooks_times_are_kserve_s_histograms(memory, hook, seconds):
    """Name, label and every bucket that KServe's own histogram has, with the same numbers in them."""
    ours = getattr(Metrics(memory).model("iris"), f"{hook}_seconds")
    theirs = TheirHistogram(f"request_{hook}_seconds", "", ["model_name"], registry=None)
    for histogram in (ours, theirs.labels(model_name="iris")):
        histogram.observe(seconds)
        histogram.observe(0.2)
    page = samples(memory)
    compared = 0
    for family in theirs.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                assert page[(sample.name, *sorted(sample.labels.items()))] == sample.value
                compared += 1
    assert compared == 17  # 14 bounds, +Inf, count and sum


def test_batch_sizes_have_buckets_of_powers_of_two(memory):
    model = Metrics(memory).model("iris")
    for size in (1, 2, 3, 1024, 5000):
        model.batch_size.observe(size)
    counts = [
        value(memory, "modelserver_batch_size_bucket", model="iris", le=le)
        for le in ("1.0", "2.0", "4.0", "512.0", "1024.0", "+Inf")
    ]
    assert counts == [1, 2, 3, 3, 4, 5]
    assert value(memory, "modelserver_batch_size_sum", model="iris") == 6030


def test_what_several_requests_had_in_common_is_counted_for_each(memory):
    model = Metrics(memory).model("iris")
    model.predict_seconds.observe_each(0.25, 4)
    assert value(memory, "request_predict_seconds_bucket", model_name="iris", le="0.25") == 4
    assert value(memory, "request_predict_seconds_bucket", model_name="iris", le="0.1") == 0
    assert value(memory, "request_predict_seconds_sum", model_name="iris") == 1.0


def test_how_long_several_requests_have_waited_is_counted_for_each(memory):
    model = Metrics(memory).model("iris")
    model.queue_wait_seconds.observe_since(10.0, [9.75, 9.5, 5.0])
    seconds = "modelserver_queue_wait_seconds"
    assert value(memory, f"{seconds}_bucket", model="iris", le="0.25") == 1
    assert value(memory, f"{seconds}_bucket", model="iris", le="0.5") == 2
    assert value(memory, f"{seconds}_bucket", model="iris", le="+Inf") == 3
    assert value(memory, f"{seconds}_sum", model="iris") == 5.75


def test_the_page_is_the_sum_of_all_processes(memory):
    for number in range(3):
        metrics = Metrics(memory, number)
        model = metrics.model("iris")
        model.answered("predict", 200, 0.1)
        model.predict_seconds.observe(0.25)
        model.queue.set(number)
        model.ready.set(1)
        metrics.in_flight.set(2)
        metrics.connections.set(10)
        model.loaded(seconds=[3.0, 5.0, 4.0][number])
    assert value(memory, "modelserver_requests_total", model="iris", verb="predict", status="200") == 3
    assert value(memory, "request_predict_seconds_count", model_name="iris") == 3
    assert value(memory, "request_predict_seconds_sum", model_name="iris") == 0.75
    assert value(memory, "request_predict_seconds_bucket", model_name="iris", le="0.25") == 3
    assert value(memory, "modelserver_queue_length", model="iris") == 3
    assert value(memory, "modelserver_model_ready", model="iris") == 3
    assert value(memory, "modelserver_requests_in_flight") == 6
    assert value(memory, "modelserver_connections") == 30
    assert value(memory, "modelserver_model_load_seconds", model="iris") == 5


def test_a_worker_that_ended_leaves_its_counts_and_nothing_in_hand(memory):
    supervisor = Metrics(memory, memory.SUPERVISOR)
    supervisor.workers.set(2)
    for number in range(2):
        metrics = Metrics(memory, number)
        model = metrics.model("iris")
        model.answered("predict", 200, 0.1)
        model.queue.set(5)
        model.ready.set(1)
        model.loaded(2.0)
        metrics.in_flight.set(5)
        metrics.connections.set(5)
    supervisor.worker_ended(1)
    supervisor.worker_restarts.inc()
    page = samples(memory)
    assert page[("modelserver_queue_length", ("model", "iris"))] == 5
    assert page[("modelserver_model_ready", ("model", "iris"))] == 1
    assert page[("modelserver_requests_in_flight",)] == 5
    assert page[("modelserver_connections",)] == 5
    assert page[("modelserver_model_load_seconds", ("model", "iris"))] == 2
    assert page[("modelserver_workers",)] == 2
    assert page[("modelserver_worker_restarts_total",)] == 1
    assert value(memory, "modelserver_requests_total", model="iris", verb="predict", status="200") == 2
    assert ("process_cpu_seconds_total", ("worker", "1")) not in page
    successor = Metrics(memory, 1).model("iris")
    successor.answered("predict", 200, 0.1)
    assert value(memory, "modelserver_requests_total", model="iris", verb="predict", status="200") == 3


def test_the_last_load_error_is_named_until_a_load_succeeds(memory):
    model = Metrics(memory).model("iris")
    model.load_failed(FileNotFoundError(2, "No such file", "/secret/place"))

    def error(kind):
        return value(memory, "modelserver_model_load_error", model="iris", error=kind)

    assert error("FileNotFoundError") == 1
    assert "secret" not in Exposition(memory).text()
    Metrics(memory, memory.SUPERVISOR).worker_ended(0)
    assert error("FileNotFoundError") == 1  # it may have died of it
    successor = Metrics(memory).model("iris")
    successor.load_failed(ValueError("other"))
    assert (error("FileNotFoundError"), error("ValueError")) == (0, 1)
    successor.load_failed(ValueError("again"))
    successor.loaded(1.0)
    assert (error("FileNotFoundError"), error("ValueError")) == (0, 0)
    failures = "modelserver_model_load_failures_total"
    assert value(memory, failures, model="iris", error="ValueError") == 2
    assert value(memory, failures, model="iris", error="FileNotFoundError") == 1


def test_an_error_of_one_model_is_not_ended_by_another(memory):
    metrics = Metrics(memory)
    metrics.model("iris").load_failed(ValueError())
    metrics.model("iris2").load_failed(ValueError())
    metrics.model("iris").loaded(1.0)
    assert value(memory, "modelserver_model_load_error", model="iris2", error="ValueError") == 1


def test_versions_are_counted_by_what_came_of_them(memory):
    for number in range(2):
        model = Metrics(memory, number).model("iris")
        model.version_loaded(7, 1.0)
        model.version_failed(8, ValueError("/secret/place"))
    loads = "modelserver_model_version_loads_total"
    assert value(memory, loads, model="iris", result="loaded") == 2
    assert value(memory, loads, model="iris", result="failed") == 2
    assert "secret" not in Exposition(memory).text()


def test_the_versions_that_can_be_asked_are_those_of_the_worker_with_most(memory):
    first, second = (Metrics(memory, number).model("iris") for number in range(2))
    first.show_versions([3, 5])
    second.show_versions([3])
    versions, newest = "modelserver_model_versions", "modelserver_model_newest_version"
    assert value(memory, versions, model="iris") == 2
    assert value(memory, newest, model="iris") == 5
    first.show_versions([3])  # 5 was taken back
    assert value(memory, versions, model="iris") == 1
    assert value(memory, newest, model="iris") == 3
    second.versions_available.set(2)
    assert value(memory, versions, model="iris") == 2
    Metrics(memory, memory.SUPERVISOR).worker_ended(1)
    assert value(memory, versions, model="iris") == 1
    first.show_versions([])
    assert value(memory, versions, model="iris") == value(memory, newest, model="iris") == 0


def test_many_versions_make_no_more_series(memory):
    model = Metrics(memory).model("iris")
    model.version_loaded(1, 1.0)
    model.version_failed(2, ValueError())
    model.show_versions([1])
    before = samples(memory).keys()
    for number in range(100):
        model.version_loaded(number, 1.0)
        model.version_failed(number, ValueError())
        model.show_versions(range(number))
    assert samples(memory).keys() == before


def test_refused_bytes_are_counted_by_status(memory):
    metrics = Metrics(memory)
    for status in (400, 400, 431):
        metrics.refused(status)
    assert value(memory, "modelserver_http_refused_total", status="400") == 2
    assert value(memory, "modelserver_http_refused_total", status="431") == 1


@pytest.mark.parametrize(
    "name", ['with "quotes"', "back\\slash", "line\nbreak", "ümläut 模型", "a{b}=c,d", "x" * 200, "end\\"]
)
def test_any_name_of_a_model_can_be_read_back(memory, name):
    Metrics(memory).model(name).shed.inc()
    assert value(memory, "modelserver_requests_shed_total", model=name) == 1


@pytest.mark.parametrize(
    ("name", "shown"), [("half a \ud800", "half a ?"), ("y" * 201, "y" * 200), ("ü" * 300, "ü" * 200)]
)
def test_a_name_that_no_label_can_have_is_changed(memory, name, shown):
    Metrics(memory).model(name).shed.inc()
    assert value(memory, "modelserver_requests_shed_total", model=shown) == 1


def test_a_full_block_fails_nothing():
    memory = MetricMemory(1, block_bytes=4096)
    metrics = Metrics(memory)
    for number in range(50):
        model = metrics.model(f"model-{number}")
        model.answered("predict", 200, 0.1)
        model.predict_seconds.observe(0.1)
        model.load_failed(ValueError())
        model.loaded(0.1)
        metrics.refused(400 + number)
    assert value(memory, "modelserver_metrics_dropped_series_total") > 100
    assert value(memory, "modelserver_requests_total", model="model-0", verb="predict", status="200") == 1


def test_every_family_is_on_the_page_with_its_type(memory):
    Metrics(memory).model("iris")
    page = {family.name: family for family in text_string_to_metric_families(Exposition(memory).text())}
    for family in (*families.FAMILIES.values(), *ASKED):
        read = page.pop(family.name.removesuffix("_total"))  # as this parser calls a counter
        assert (read.type, read.documentation) == (family.kind, family.help)
    assert not page


def test_names_follow_prometheus_rules():
    for family in (*families.FAMILIES.values(), *ASKED):
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.name.isascii()
        assert family.name.islower()
        assert list(family.buckets) == sorted(set(family.buckets))
        assert not (family.ends and family.kind != "gauge")


def test_the_page_says_what_the_processes_take(memory):
    Metrics(memory, 2)
    page = samples(memory)
    worker = ("worker", "2")
    mine = look_at(os.getpid())
    assert page[("process_resident_memory_bytes", worker)] > 1e6
    assert page[("process_virtual_memory_bytes", worker)] >= page[("process_resident_memory_bytes", worker)]
    assert 0 < page[("process_cpu_seconds_total", worker)] <= mine.cpu_s
    assert page[("process_start_time_seconds", worker)] == mine.started_s
    assert page[("process_max_fds", worker)] == mine.max_fds
    assert page[("process_threads", worker)] >= 1
    fds = page[("process_open_fds", worker)]
    reading, writing = os.pipe()
    assert value(memory, "process_open_fds", worker="2") == fds + 2
    os.close(reading)
    os.close(writing)
    assert ("process_open_fds", ("worker", "0")) not in page


def test_nothing_is_known_of_a_process_that_is_gone():
    if not (pid := os.fork()):
        os._exit(0)
    os.waitpid(pid, 0)
    assert look_at(pid) is None
    assert look_at(0) is None


def test_a_page_made_again_has_the_series_that_came_since(memory):
    exposition = Exposition(memory)
    metrics = Metrics(memory)
    assert 'model="iris"' not in exposition.text()
    metrics.model("iris").answered("predict", 200, 0.1)
    assert 'modelserver_requests_total{model="iris",verb="predict",status="200"} 1.0' in exposition.text()
    metrics.model("iris").answered("predict", 503, 0.1)
    page = exposition.text()
    assert 'modelserver_requests_total{model="iris",verb="predict",status="503"} 1.0' in page
    assert page.count('modelserver_requests_total{model="iris",verb="predict",status="200"} 1.0') == 1


def test_series_of_another_version_are_left_out(memory):
    from modelserver.metrics.memory import Block

    Block(memory, 1).series(b'modelserver_of_tomorrow{a="b"}', 1)
    Block(memory, 1).series(families.PREDICT_SECONDS.key("iris"), 3)
    page = Exposition(memory).text()
    assert "tomorrow" not in page
    assert 'model_name="iris"' not in page

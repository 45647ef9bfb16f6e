"""Hooks: the order, the signatures, sync and async in any mixture."""

import asyncio
import functools
import threading

import numpy as np
import pytest

from modelserver import HookNotImplemented, InferenceError, InvalidInput, Model, ModelType
from modelserver.execution import ModelThreads


def call(model, body, **kwargs):
    return asyncio.run(model(body, **kwargs))


class Recorder(Model):
    """Appends the name of each hook that ran."""

    def preprocess(self, payload):
        return [*payload, "preprocess"]

    def validate(self, payload):
        return [*payload, "validate"]

    def predict(self, payload):
        return [*payload, "predict"]

    def explain(self, payload):
        return [*payload, "explain"]

    def postprocess(self, payload):
        return [*payload, "postprocess"]


class AsyncRecorder(Recorder):
    async def preprocess(self, payload):
        await asyncio.sleep(0)
        return [*payload, "preprocess"]

    async def validate(self, payload):
        return [*payload, "validate"]

    async def predict(self, payload):
        return [*payload, "predict"]

    async def explain(self, payload):
        return [*payload, "explain"]

    async def postprocess(self, payload):
        return [*payload, "postprocess"]


class MixedRecorder(Recorder):
    async def validate(self, payload):
        return [*payload, "validate"]

    def postprocess(self, payload):
        async def later():
            return [*payload, "postprocess"]

        return later()


@pytest.mark.parametrize("model_class", [Recorder, AsyncRecorder, MixedRecorder])
@pytest.mark.parametrize(
    ("model_type", "verb"), [(ModelType.PREDICTOR, "predict"), (ModelType.EXPLAINER, "explain")]
)
def test_hooks_run_in_order(model_class, model_type, verb):
    assert call(model_class("m"), [], model_type=model_type) == [
        "preprocess",
        "validate",
        verb,
        "postprocess",
    ]


def test_each_hook_gets_what_its_signature_names():
    class Signatures(Model):
        def preprocess(self, body):
            return [("preprocess", body)]

        async def predict(self, payload, headers):
            return [*payload, ("predict", headers["x-one"])]

        def postprocess(self, response, headers, response_headers):
            response_headers["x-two"] = headers["x-one"].upper()
            return response

    response_headers = {}
    answer = call(Signatures("m"), "body", headers={"x-one": "a"}, response_headers=response_headers)
    assert answer == [("preprocess", "body"), ("predict", "a")]
    assert response_headers == {"x-two": "A"}


def test_headers_by_keyword_and_parameters_of_the_users_own():
    class Own(Model):
        def preprocess(self, payload, scale=10):
            return payload * scale

        def predict(self, payload, headers=None, response_headers=None):
            return payload, headers, response_headers is not None

        def postprocess(self, response, *, headers):
            return (*response, headers["h"])

    assert call(Own("m"), 2, headers={"h": "v"}) == (20, {"h": "v"}, True, "v")


def test_variable_arguments_get_everything():
    class Variable(Model):
        def predict(self, *args):
            return args

    payload, headers, response_headers = call(Variable("m"), 1, headers={"a": "b"})
    assert (payload, headers, response_headers) == (1, {"a": "b"}, {})


def test_defaults_can_be_called_by_subclasses_of_any_style():
    class Old(Model):
        def preprocess(self, payload):
            return super().preprocess(payload)

        def predict(self, payload, headers):
            return super().postprocess(payload, headers)

    assert call(Old("m"), {"instances": []}) == {"instances": []}


def test_signatures_are_read_once(monkeypatch):
    import inspect

    model = Recorder("m")
    call(model, [])
    read = []
    monkeypatch.setattr(inspect, "signature", read.append)
    call(model, [])
    assert read == []


def test_a_decorated_coroutine_function_is_awaited():
    def plain(function):
        @functools.wraps(function)
        def wrapper(*args):
            return function(*args)

        return wrapper

    def bare(function):
        return lambda *args: function(*args)  # noqa: PLW0108 - hides that the function is async

    class Decorated(Model):
        @plain
        async def preprocess(self, payload):
            return payload + 1

        @bare
        async def predict(self, payload, headers, response_headers):
            await asyncio.sleep(0)
            return payload + 1

    assert call(Decorated("m"), 1) == 3


def test_missing_hooks_answer_501_with_kserves_words():
    with pytest.raises(HookNotImplemented, match=r"Could not find predictor_host\.") as caught:
        call(Model("m"), {})
    assert caught.value.status == 501
    with pytest.raises(NotImplementedError, match=r"Could not find explainer_host\."):
        call(Model("m"), {}, model_type=ModelType.EXPLAINER)


@pytest.mark.parametrize("instances", [None, 1, "rows", {"a": 1}])
def test_instances_must_be_a_list(instances):
    with pytest.raises(InvalidInput, match=r'^Expected "instances" to be a list$'):
        call(Model("m"), {"instances": instances})


def test_instances_may_be_an_array():
    rows = np.ones((2, 3))
    assert call(Recorded("m"), {"instances": rows}) is rows


class Recorded(Model):
    """Answers with the instances that it got."""

    def predict(self, payload):
        return payload["instances"]


@pytest.mark.parametrize(
    ("dtype", "rows", "expected"),
    [
        ("float32", [[1, 2.5], [3, 4]], np.array([[1, 2.5], [3, 4]], np.float32)),
        (np.int64, [1, 2], np.array([1, 2], np.int64)),
        (np.dtype("uint8"), np.array([[1.0]]), np.array([[1]], np.uint8)),
        ("number", [[1, 2]], np.array([[1, 2]], np.int64)),
        ("number", [[1, 2.5]], np.array([[1, 2.5]], np.float32)),
    ],
)
def test_instances_become_one_array_of_the_models_dtype(dtype, rows, expected):
    class Typed(Recorded):
        instances_dtype = dtype

    body = {"instances": rows, "other": 1}
    array = call(Typed("m"), body)
    assert (array.dtype, array.tolist()) == (expected.dtype, expected.tolist())
    assert body["instances"] is rows


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([[1, 2], [3]], '"instances"[1] has shape [1], expected [2] as in "instances"[0]'),
        ([["a"]], "\"instances\"[0][0] is a string 'a', expected a number"),
        ([{"x": 1}], '"instances"[0] is an object, expected a number'),
        ([[300]], '"instances" holds a number outside the range of uint8 [0, 255]'),
        ([[1.5]], '"instances" holds fractions, expected uint8 integers'),
        (7, 'Expected "instances" to be a list'),
    ],
)
def test_instances_that_do_not_fit_the_dtype_are_a_400(rows, text):
    class Typed(Recorded):
        instances_dtype = "uint8"

    with pytest.raises(InvalidInput) as caught:
        call(Typed("m"), {"instances": rows})
    assert (str(caught.value), caught.value.status) == (text, 400)


def test_a_validate_of_the_users_own_gets_what_came():
    class Own(Recorded):
        instances_dtype = "float32"

        def validate(self, payload):
            return payload

    assert call(Own("m"), {"instances": [["a"]]}) == [["a"]]


def test_a_model_of_rows_wants_instances_and_takes_bytes_as_they_are():
    class Typed(Model):
        instances_dtype = "float32"

        def predict(self, payload):
            return payload

    with pytest.raises(InvalidInput, match='Expected "instances"'):
        call(Typed("m"), {"inputs": 1})
    assert call(Typed("m"), b"bytes") == b"bytes"


@pytest.mark.parametrize("given", [{"host": "h"}, {"host": "h", "x-request-id": "the client's own"}])
def test_hooks_see_the_name_of_their_request_and_the_fields_of_others_stay(given):
    class Hook(Model):
        def predict(self, payload, headers):
            return headers

    class OwnWalk(Model):
        async def __call__(self, body, model_type, headers, response_headers):
            return headers

    before = dict(given)
    for model in (Hook("m"), OwnWalk("m")):
        seen = model.begin({}, headers=given, request_id="made-1")
        seen = asyncio.run(seen) if asyncio.iscoroutine(seen) else seen
        assert seen == {"host": "h", "x-request-id": "made-1"}
    assert given == before


def test_default_load_makes_the_model_ready():
    model = Model("m")
    assert not model.ready
    assert model.load() is True
    assert model.ready


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_hook_cannot_end_the_server(error, is_async):
    class Leaves(Model):
        def predict(self, payload):
            raise error

    class LeavesAsync(Model):
        async def predict(self, payload):
            raise error

    with pytest.raises(InferenceError, match=type(error).__name__):
        call((LeavesAsync if is_async else Leaves)("m"), {})


def run_on_threads(model, body, count=1):
    async def main():
        threads = ModelThreads("m", count)
        model.attach_runner(threads)
        try:
            return await model(body)
        finally:
            threads.close()

    return asyncio.run(main())


def test_sync_hooks_leave_the_loop_in_one_hop_and_async_hooks_stay():
    hops = []

    class Where(Model):
        def preprocess(self, payload):
            return [threading.current_thread().name]

        def predict(self, payload):
            return [*payload, threading.current_thread().name]

        async def postprocess(self, payload):
            return [*payload, threading.current_thread().name]

    class Counting(ModelThreads):
        def start(self, size, function, *args):
            hops.append(function)
            return super().start(size, function, *args)

    async def main():
        model = Where("m")
        threads = Counting("m")
        model.attach_runner(threads)
        try:
            return await model({})
        finally:
            threads.close()

    assert asyncio.run(main()) == ["model-m-0", "model-m-0", "MainThread"]
    assert len(hops) == 1


def test_stop_iteration_from_a_hook_is_an_error_not_a_silent_end():
    class Stops(Model):
        def predict(self, payload):
            return next(iter(()))

    with pytest.raises(InferenceError, match=r"StopIteration"):
        run_on_threads(Stops("m"), {})


def test_a_subclass_without_super_init_still_runs():
    class Forgetful(Model):
        def __init__(self):
            self.name = "m"

        def predict(self, payload):
            return payload

    assert call(Forgetful(), {"a": 1}) == {"a": 1}

"""What only happens between two answers; everything else is in `tests/e2e/test_tfs_grpc.py`."""

import asyncio
from types import SimpleNamespace

import pytest

from modelserver.errors import HookNotImplemented
from modelserver.model import Model
from modelserver.protocols import tfs_messages as tfs
from modelserver.protocols.tf_messages import Example
from modelserver.rpc.calls import Call
from modelserver.rpc.prediction_service import PredictionService


class DataPlane:
    """A version more after each answer."""

    def __init__(self):
        self.repository = SimpleNamespace(versions={"m": None})
        self.newest = 1

    def model(self, name, version=None):
        model = Model(name)
        model.takes_tensors, model.version = True, version or self.newest
        return model

    servable = model

    async def answer(self, name, payload, model_type, *, version, timeout_s, headers, size):
        self.newest += 1
        results = [[["a", 0.5]]] if model_type.verb == "classify" else [1.0]
        return {"results": results}, self.model(name, version)


class Streaming(DataPlane):
    """Answers piece by piece."""

    async def answer(self, name, *_, **__):
        async def pieces():
            yield "a"

        return pieces(), self.model(name)


def test_an_answer_in_pieces_is_refused():
    request = tfs.PredictRequest(model_spec={"name": "m"})
    with pytest.raises(HookNotImplemented, match="piece by piece"):
        asyncio.run(PredictionService(Streaming()).predict(request, Call({}, None, 0)))


def test_all_tasks_of_a_multi_inference_are_one_versions():
    request = tfs.MultiInferenceRequest(input={"example_list": {"examples": [Example()]}})
    for number, verb in enumerate(("classify", "regress", "regress")):
        spec = {"name": "m", "signature_name": f"s{number}"}
        request.tasks.add(model_spec=spec, method_name=f"tensorflow/serving/{verb}")
    call = Call({}, None, 0)
    answer = asyncio.run(PredictionService(DataPlane()).multi_inference(request, call))
    assert [each.model_spec.version.value for each in answer.results] == [1, 1, 1]
    assert [each.model_spec.signature_name for each in answer.results] == ["s0", "s1", "s2"]
    assert answer.results[0].classification_result.classifications[0].classes[0].label == "a"
    assert (call.model_name, call.examples) == ("m", 3)

"""``tensorflow.serving.PredictionService``: Predict, Classify, Regress, MultiInference, GetModelMetadata.

Rules of the room: TensorFlow Serving's messages on one side, the dataplane's values on the other. Texts of
errors are TensorFlow Serving's where it has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelserver.dataplane import DataPlane
from modelserver.errors import (
    HookNotImplemented,
    InferenceError,
    InvalidInput,
)
from modelserver.messages import TensorRequest, TensorResponse
from modelserver.model import Model, ModelType
from modelserver.protocols import examples, protobuf, tensor_proto, v1_tensors
from modelserver.protocols import tfs_messages as tfs
from modelserver.rpc.calls import OTHER, Call, Calls
from modelserver.rpc.whole import whole

NAME = "tensorflow.serving.PredictionService"
DEFAULT_SIGNATURE = "serving_default"

_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
_METADATA = "signature_def"


class PredictionService:
    """The five calls.

    Args:
        dataplane: what answers.
        most_bytes: of a tensor whose values are not all sent.
    """

    def __init__(self, dataplane: DataPlane, most_bytes: int = tensor_proto.MOST_BYTES) -> None:
        self._dataplane = dataplane
        self._most_bytes = most_bytes

    def handlers(self, calls: Calls) -> Any:
        """What the server takes."""
        return calls.service(
            NAME,
            {
                "Predict": (tfs.PredictRequest, "predict", self.predict),
                "Classify": (tfs.ClassificationRequest, "classify", self.classify),
                "Regress": (tfs.RegressionRequest, "regress", self.regress),
                "MultiInference": (tfs.MultiInferenceRequest, "multi_inference", self.multi_inference),
                "GetModelMetadata": (tfs.GetModelMetadataRequest, OTHER, self.get_model_metadata),
            },
        )

    async def predict(self, request: Any, call: Call) -> Any:
        """Tensors in, tensors out."""
        spec = _spec(request, call)
        model = self._model(spec)
        inputs = {
            name: tensor_proto.to_array(tensor, f"input {name}", self._most_bytes)
            for name, tensor in request.inputs.items()
        }
        wanted = tuple(request.output_filter)
        payload: Any
        if model.takes_tensors:
            payload = TensorRequest(inputs, spec.signature_name, wanted)
        else:
            payload = v1_tensors.to_payload(inputs, spec.signature_name)
        answer, model = await self._answer(payload, ModelType.PREDICTOR, spec, call)
        signature_name = spec.signature_name
        if isinstance(answer, TensorResponse):
            outputs, signature_name = answer.outputs, answer.signature_name or signature_name
        else:
            names = [str(each["name"]) for each in model.get_output_types()]
            outputs = v1_tensors.from_answer(answer, names, wanted)
        response = tfs.PredictResponse()
        for name, array in outputs.items():
            try:
                tensor_proto.set_array(response.outputs[name], array)
            except TypeError as error:
                raise InferenceError(f"the model's output {name} cannot be sent: {error}") from error
        _answered_by(response.model_spec, spec.name, model, signature_name)
        return response

    async def classify(self, request: Any, call: Call) -> Any:
        """Examples in, labels with scores out."""
        spec = _spec(request, call)
        response = tfs.ClassificationResponse()
        model = await self._classify(request.input, spec, call, response.result)
        _answered_by(response.model_spec, spec.name, model, spec.signature_name)
        return response

    async def regress(self, request: Any, call: Call) -> Any:
        """Examples in, values out."""
        spec = _spec(request, call)
        response = tfs.RegressionResponse()
        model = await self._regress(request.input, spec, call, response.result)
        _answered_by(response.model_spec, spec.name, model, spec.signature_name)
        return response

    async def multi_inference(self, request: Any, call: Call) -> Any:
        """The same examples for several signatures of one version of a model."""
        _check_tasks(request.tasks)
        response = tfs.MultiInferenceResponse()
        spec = tfs.ModelSpec()
        if request.tasks:
            spec.CopyFrom(request.tasks[0].model_spec)
        call.model_name = spec.name
        if spec.name in self._dataplane.repository.versions:
            # All tasks are one version's, also if another one takes over in between.
            spec.version.value = self._model(spec).version or 1
        for task in request.tasks:
            result = response.results.add()
            spec.signature_name = task.model_spec.signature_name
            if task.method_name == _CLASSIFY:
                model = await self._classify(request.input, spec, call, result.classification_result)
            else:
                model = await self._regress(request.input, spec, call, result.regression_result)
            _answered_by(result.model_spec, spec.name, model, spec.signature_name)
        return response

    async def get_model_metadata(self, request: Any, call: Call) -> Any:
        """The signatures of a version."""
        spec = _spec(request, call)
        if not request.metadata_field:
            raise InvalidInput("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _METADATA:
                raise InvalidInput(f"Metadata field {field} is not supported")
        model = self._model(spec)
        definitions = {_METADATA: model.signature_definitions()}
        response = tfs.GetModelMetadataResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = model.version or 1
        response.metadata[_METADATA].Pack(protobuf.from_dict(tfs.SignatureDefMap, definitions))
        return response

    async def _classify(self, given: Any, spec: Any, call: Call, result: Any) -> Model:
        results, model = await self._results(given, ModelType.CLASSIFIER, spec, call)
        for row in results:
            classes = result.classifications.add().classes
            for label, score in row:
                classes.add(label=_text(label), score=score)
        return model

    async def _regress(self, given: Any, spec: Any, call: Call, result: Any) -> Model:
        results, model = await self._results(given, ModelType.REGRESSOR, spec, call)
        for value in results:
            result.regressions.add().value = value
        return model

    async def _results(
        self, given: Any, model_type: ModelType, spec: Any, call: Call
    ) -> tuple[Sequence[Any], Model]:
        knows_messages = self._model(spec).takes_tensors
        payload = examples.serialized(given) if knows_messages else examples.plain(given)
        if spec.signature_name:
            payload["signature_name"] = spec.signature_name
        answer, model = await self._answer(payload, model_type, spec, call)
        results = answer.get("results") if isinstance(answer, Mapping) else None
        if results is None:
            raise InferenceError(f"{model_type.verb} of the model returned no results")
        call.examples += len(payload["examples"])
        return results, model

    async def _answer(self, payload: Any, model_type: ModelType, spec: Any, call: Call) -> tuple[Any, Model]:
        answer, model = await self._dataplane.answer(
            spec.name,
            payload,
            model_type,
            version=_version(spec),
            timeout_s=call.timeout_s,
            headers={**call.fields, "x-request-id": call.request_id},
            size=call.size,
        )
        return await whole(answer, model), model

    def _model(self, spec: Any) -> Model:
        return self._dataplane.servable(spec.name, _version(spec))


def _spec(request: Any, call: Call) -> Any:
    if not request.HasField("model_spec"):
        raise InvalidInput("Missing ModelSpec")
    call.model_name = request.model_spec.name
    return request.model_spec


def _version(spec: Any) -> int | str | None:
    """Number or label; ``None``: the newest."""
    choice = spec.WhichOneof("version_choice")
    if choice == "version":
        number: int = spec.version.value
        return number
    if choice == "version_label":
        label: str = spec.version_label
        return label
    return None


def _answered_by(spec: Any, name: str, model: Model, signature_name: str) -> None:
    spec.name = name
    spec.signature_name = signature_name or DEFAULT_SIGNATURE
    spec.version.value = model.version or 1


def _text(label: Any) -> str:
    """A label that a message can carry: bytes that are no UTF-8 are marked as such."""
    if isinstance(label, str):
        label = label.encode(errors="surrogateescape")  # how a predictor for JSON may write such bytes
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)


def _check_tasks(tasks: Sequence[Any]) -> None:
    """Whether tasks can be answered together.

    Raises:
        InvalidInput: they are not for one model, or two for one signature.
        HookNotImplemented: one neither classifies nor regresses.
    """
    signatures = set()
    for task in tasks:
        spec = task.model_spec
        if not spec.name:
            raise InvalidInput("Found ModelSpec with an empty model name.")
        if spec.name != tasks[0].model_spec.name:
            raise InvalidInput("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        signature_name = spec.signature_name or DEFAULT_SIGNATURE
        if signature_name in signatures:
            raise InvalidInput(f"Duplicate evaluation of signature: {signature_name}")
        signatures.add(signature_name)
        if task.method_name not in (_CLASSIFY, _REGRESS):
            raise HookNotImplemented(f"Unsupported signature method_name: {task.method_name}")

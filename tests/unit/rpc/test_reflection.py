"""What the server says of its services. gRPC's own client asks it in `tests/e2e/test_v2_grpc.py`."""

import asyncio

import pytest
from google.protobuf import descriptor_pb2

from modelserver.dataplane import DataPlane
from modelserver.lifecycle import Lifecycle
from modelserver.protocols import protobuf
from modelserver.repository.model_repository import ModelRepository
from modelserver.rpc import health, inference_service, model_service, prediction_service, reflection
from modelserver.rpc.calls import Calls

VERSIONS = ["grpc.reflection.v1", "grpc.reflection.v1alpha"]


@pytest.fixture(scope="module")
def reflected():
    return reflection.Reflection(["b.Service", "a.Service"], Lifecycle())


@pytest.fixture(params=VERSIONS)
def ask(request, reflected):
    """One request of the stream, by its field."""
    question, answer = (
        protobuf.message_class(f"{request.param}.ServerReflection{kind}") for kind in ("Request", "Response")
    )

    def asked(**fields):
        sent = question(host="here", **fields)
        got = reflected.answer(sent, answer)
        assert (got.valid_host, got.original_request) == ("here", sent)
        return got

    return asked


def files(answer):
    return [
        descriptor_pb2.FileDescriptorProto.FromString(each).name
        for each in answer.file_descriptor_response.file_descriptor_proto
    ]


def test_the_services_are_listed_with_its_own(ask):
    listed = [each.name for each in ask(list_services="*").list_services_response.service]
    assert listed == ["a.Service", "b.Service", *reflection.NAMES]


@pytest.mark.parametrize(
    "symbol",
    [
        "inference.GRPCInferenceService",
        "inference.GRPCInferenceService.ModelInfer",
        "inference.ModelInferRequest.InferInputTensor",
        "inference.InferParameter.bool_param",
    ],
)
def test_a_file_is_found_by_what_is_in_it(ask, symbol):
    assert files(ask(file_containing_symbol=symbol)) == ["modelserver/inference.proto"]


def test_a_file_comes_with_all_that_it_builds_on(ask):
    first, *rest = files(ask(file_by_filename="modelserver/tensorflow.serving.proto"))
    assert first == "modelserver/tensorflow.serving.proto"
    assert sorted(rest) == [
        "google/protobuf/any.proto",
        "google/protobuf/wrappers.proto",
        "modelserver/tensorflow.error.proto",
        "modelserver/tensorflow.proto",
    ]


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("file_by_filename", "none.proto", "none.proto"),
        ("file_by_filename", "", ""),
        ("file_containing_symbol", "inference.None", "inference.None"),
        ("file_containing_symbol", "inference.GRPCInferenceService.None", "GRPCInferenceService.None"),
        ("file_containing_symbol", "None" * 1000, "None"),
        ("all_extension_numbers_of_type", "inference.None", "inference.None"),
        ("file_containing_extension", {"containing_type": "inference.InferParameter"}, "InferParameter"),
    ],
)
def test_what_is_not_there_is_not_found(ask, field, value, named):
    error = ask(**{field: value}).error_response
    assert error.error_code == 5
    assert named in error.error_message
    assert len(error.error_message) < 250


def test_messages_have_no_extensions(ask):
    found = ask(all_extension_numbers_of_type="inference.InferParameter").all_extension_numbers_response
    assert (found.base_type_name, list(found.extension_number)) == ("inference.InferParameter", [])


def test_a_request_for_nothing_is_wrong(ask):
    assert ask().error_response.error_code == 3


@pytest.mark.parametrize("is_draining", [False, True])
def test_the_stream_ends_with_the_client_or_with_the_server(is_draining):
    async def run():
        async def requests():
            yield "first"
            yield "second"
            if is_draining:
                lifecycle.draining = True
                await asyncio.Event().wait()

        lifecycle = Lifecycle()
        stream = reflection.Reflection([], lifecycle)._until_draining(requests())
        return [request async for request in stream]

    assert asyncio.run(asyncio.wait_for(run(), 30)) == ["first", "second"]


def test_what_is_described_is_what_is_answered():
    dataplane = DataPlane(ModelRepository(), Lifecycle())
    calls = Calls(dataplane)
    services = {
        inference_service.NAME: inference_service.InferenceService(dataplane).handlers(calls),
        prediction_service.NAME: prediction_service.PredictionService(dataplane).handlers(calls),
        model_service.NAME: model_service.ModelService(dataplane).handlers(calls),
        health.NAME: health.Health(dataplane, ()).handlers(calls),
        **dict(zip(reflection.NAMES, reflection.Reflection([], Lifecycle()).handlers(calls), strict=True)),
    }
    for name, handlers in services.items():
        described = {f"/{name}/{method}" for method in protobuf.methods_of(name)}
        assert handlers._method_handlers.keys() == described

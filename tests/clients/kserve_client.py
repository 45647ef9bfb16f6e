"""The clients of the real KServe, 0.21, against our servers; run by test_kserve_client.py."""

import logging

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from scripted import Cases, came_back, samples, servers, told

case = Cases()
ROWS = np.array([[1.5, 2.0], [3.0, -4.5]], np.float32)
IRIS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
THERE = servers()
PROGRAM, PACKAGED = (f"http://127.0.0.1:{THERE[name]['http']}" for name in ("program", "packaged"))


async def rest(method, *arguments, protocol="v2", **named):
    """A call of a REST client of its own."""
    async with InferenceRESTClient(RESTConfig(protocol=protocol, timeout=60)) as calls:
        return await getattr(calls, method)(*arguments, **named)


async def v1(method, *arguments, **named):
    return await rest(method, *arguments, protocol="v1", **named)


def grpc_client(name="program"):
    return InferenceGRPCClient(f"127.0.0.1:{THERE[name]['grpc']}", retries=0, timeout=60)


def tensor(name, array, datatype, *, binary):
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def rows(*, binary, name="rows", array=ROWS):
    return tensor(name, array, "FP32", binary=binary)


def pair(*, binary):
    values = np.array([5, 7, 9], np.int32), np.array([1, 2, 3], np.int32)
    return [tensor(f"INPUT{number}", array, "INT32", binary=binary) for number, array in enumerate(values)]


def said(response):
    """Everything of an InferResponse."""
    return {
        "id": response.id,
        "model": response.model_name,
        "parameters": {
            name: getattr(value, value.WhichOneof("parameter_choice"))
            if hasattr(value, "WhichOneof")
            else value
            for name, value in (response.parameters or {}).items()
        },
        "outputs": {output.name: [output.datatype, *told(output.as_numpy())] for output in response.outputs},
    }


async def ask(model, inputs, base=PROGRAM, *, headers=None, **named):
    request = InferRequest(model, inputs, request_id="one", **named)
    return said(await rest("infer", base, request, model_name=model, headers=headers))


async def ask_grpc(model, inputs, server="program", *, headers=None, **named):
    request = InferRequest(model, inputs, request_id="one", **named)
    async with grpc_client(server) as calls:
        return said(await calls.infer(request, headers=headers))


async def echoed(arrays, *, binary, **named):
    """Which of the arrays came back as they were."""
    inputs = [tensor(name, array, name, binary=binary) for name, array in arrays.items()]
    answer = await rest("infer", PROGRAM, InferRequest("echo", inputs, "one", **named), model_name="echo")
    return came_back(arrays, lambda name: answer.get_output_by_name(name).as_numpy())


async def refused(call):
    """The status code and the text of a call that fails."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return [error.code().name, error.details()]
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, str(error).partition(", '")[0]]


# -- V1


@case
async def v1_infer():
    return await v1("infer", PROGRAM, {"instances": [[1, 2], [3, 4]]}, model_name="style")


@case
async def v1_explain():
    return await v1("explain", PROGRAM, "style", {"instances": [[1, 2], [3, 4]]})


@case
async def v1_packaged():
    return [
        await v1("infer", PACKAGED, {"instances": IRIS}, model_name=model) for model in ("iris", "iris_tf")
    ]


@case
async def v1_health():
    return [
        await v1("is_server_live", PROGRAM),
        await v1("is_model_ready", PROGRAM, "style"),
        await v1("is_model_ready", PROGRAM, "not-ready"),
    ]


@case
async def v1_model_ready_unknown():
    return await refused(v1("is_model_ready", PROGRAM, "nobody"))


@case
async def v1_no_list():
    return await refused(v1("infer", PROGRAM, {"instances": 3}, model_name="style"))


@case
async def v1_unknown():
    return await refused(v1("infer", PROGRAM, {"instances": []}, model_name="nobody"))


@case
async def v1_not_ready():
    return await refused(v1("infer", PROGRAM, {"instances": []}, model_name="not-ready"))


# -- V2 over REST


@case
async def v2_json():
    return await ask("style", [rows(binary=False)])


@case
async def v2_binary_in():
    return await ask("style", [rows(binary=True)])


@case
async def v2_binary_both_ways():
    return await ask("addsub", pair(binary=True), parameters={"binary_data_output": True})


@case
async def v2_two_inputs():
    return await ask("addsub", pair(binary=False))


@case
async def v2_one_binary_one_json():
    first, second = pair(binary=True)[0], pair(binary=False)[1]
    return await ask("addsub", [first, second])


@case
async def v2_requested_outputs():
    wanted = [RequestedOutput("OUTPUT1", {"binary_data": True}), RequestedOutput("OUTPUT0")]
    return await ask("addsub", pair(binary=False), request_outputs=wanted)


@case
async def v2_headers():
    response_headers = {}
    request = InferRequest("style", [rows(binary=False)], request_id="one")
    answer = await rest(
        "infer",
        PROGRAM,
        request,
        model_name="style",
        headers={"X-Tenant": "acme"},
        response_headers=response_headers,
    )
    return [answer.parameters["tenant"], response_headers["content-type"]]


@case
async def v2_types_json():
    return await echoed(samples("FP16"), binary=False)  # its client sends no FP16 as JSON


@case
async def v2_types_binary():
    return await echoed(samples(), binary=True, parameters={"binary_data_output": True})


@case
async def v2_texts():
    array = np.array([["a", "Grüezi"]], object)
    return [
        (await ask("echo", [tensor("text", array, "BYTES", binary=binary)]))["outputs"]
        for binary in (False, True)
    ]


@case
async def v2_parameters():
    given = {"text": "é", "flag": False, "number": 7}
    return (await ask("echo", [rows(binary=False)], parameters=given))["parameters"]


@case
async def v2_returns():
    return {
        model: (await ask(model, [rows(binary=True)]))["outputs"] for model in ("dictionary", "list", "array")
    }


@case
async def v2_packaged():
    array = np.array(IRIS, np.float32)
    answers = {}
    for model in ("iris", "iris_tf"):
        name = THERE["inputs"][model]
        for binary in (False, True):
            answer = await ask(model, [rows(binary=binary, name=name, array=array)], PACKAGED)
            answers[f"{model} {'binary' if binary else 'json'}"] = answer["outputs"]
    return answers


@case
async def v2_health():
    return [
        await rest("is_server_live", PROGRAM),
        await rest("is_server_ready", PACKAGED),
        await rest("is_model_ready", PROGRAM, "style"),
        await rest("is_model_ready", PROGRAM, "not-ready"),
        await rest("is_model_ready", PROGRAM, "nobody"),
    ]


@case
async def v2_server_not_ready():
    return await refused(rest("is_server_ready", PROGRAM))


@case
async def v2_errors():
    words = ("input", "not ready", "value", "later")
    found = {
        word: await refused(ask("failing", [tensor("kind", np.array([word], object), "BYTES", binary=False)]))
        for word in words
    }
    found["unknown model"] = await refused(ask("nobody", [rows(binary=True)]))
    found["not-ready"] = await refused(ask("not-ready", [rows(binary=True)]))
    return found


@case
async def v2_wrong_shape():
    array = np.ones((1, 3), np.float32)
    name = THERE["inputs"]["iris"]
    return await refused(ask("iris", [rows(binary=True, name=name, array=array)], PACKAGED))


@case
async def v2_wrong_output():
    return await refused(ask("addsub", pair(binary=False), request_outputs=[RequestedOutput("OUTPUT9")]))


@case
async def v2_explain():
    return await rest("explain", PROGRAM, "style", {})


# -- V2 over gRPC


@case
async def grpc_typed():
    return await ask_grpc("style", [InferInput("rows", [2, 2], "FP32", data=ROWS.ravel().tolist())])


@case
async def grpc_raw():
    return await ask_grpc("style", [rows(binary=True)])


@case
async def grpc_metadata():
    answer = await ask_grpc("style", [rows(binary=True)], headers=(("x-tenant", "acme"),))
    return answer["parameters"]["tenant"]


@case
async def grpc_two_inputs():
    return await ask_grpc("addsub", pair(binary=True))


@case
async def grpc_requested_outputs():
    wanted = [RequestedOutput("OUTPUT1"), RequestedOutput("OUTPUT0")]
    return await ask_grpc("addsub", pair(binary=True), request_outputs=wanted)


@case
async def grpc_types_typed():
    arrays = samples("FP16")  # of which gRPC has raw contents only
    inputs = [InferInput(name, [2], name, data=array.tolist()) for name, array in arrays.items()]
    return await grpc_echoed(arrays, inputs)


@case
async def grpc_types_raw():
    inputs = [tensor(name, array, name, binary=True) for name, array in samples().items()]
    return await grpc_echoed(samples(), inputs)


async def grpc_echoed(arrays, inputs):
    async with grpc_client() as calls:
        answer = await calls.infer(InferRequest("echo", inputs, "one"))
    return came_back(arrays, lambda name: answer.get_output_by_name(name).as_numpy())


@case
async def grpc_texts():
    typed = await ask_grpc("echo", [InferInput("text", [1, 2], "BYTES", data=["a", "é"])])
    raw = await ask_grpc("echo", [tensor("text", np.array([b"\xff\x00", b""], object), "BYTES", binary=True)])
    values = raw["outputs"]["text"][-1]
    return [typed["outputs"]["text"], [value.hex() for value in values]]


@case
async def grpc_parameters():
    given = {"text": "é", "flag": False, "number": 7}
    return (await ask_grpc("echo", [rows(binary=True)], parameters=given))["parameters"]


@case
async def grpc_returns():
    return {
        model: (await ask_grpc(model, [rows(binary=True)]))["outputs"]
        for model in ("dictionary", "list", "array")
    }


@case
async def grpc_packaged():
    array = np.array(IRIS, np.float32)
    return {
        model: (
            await ask_grpc(model, [rows(binary=True, name=THERE["inputs"][model], array=array)], "packaged")
        )["outputs"]
        for model in ("iris", "iris_tf")
    }


@case
async def grpc_health():
    async with grpc_client() as calls, grpc_client("packaged") as packaged:
        return [
            await calls.is_server_live(),
            await packaged.is_server_ready(),
            await calls.is_server_ready(),
            await calls.is_model_ready("style"),
            await calls.is_model_ready("not-ready"),
        ]


@case
async def grpc_model_ready_unknown():
    async with grpc_client() as calls:
        return await refused(calls.is_model_ready("nobody"))


@case
async def grpc_errors():
    words = ("input", "not ready", "value", "later")
    found = {
        word: await refused(
            ask_grpc("failing", [tensor("kind", np.array([word], object), "BYTES", binary=True)])
        )
        for word in words
    }
    found["unknown model"] = await refused(ask_grpc("nobody", [rows(binary=True)]))
    found["not-ready"] = await refused(ask_grpc("not-ready", [rows(binary=True)]))
    return found


@case
async def grpc_wrong_shape():
    array = np.ones((1, 3), np.float32)
    name = THERE["inputs"]["iris"]
    return await refused(ask_grpc("iris", [rows(binary=True, name=name, array=array)], "packaged"))


if __name__ == "__main__":
    logging.disable()  # the client logs every failure with its traceback
    case.run()

"""tritonclient.grpc and its asyncio form against our servers; run by test_tritonclient.py."""

import threading

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from scripted import Cases, came_back, samples, servers, told
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

case = Cases()
THERE = servers()
ADMIN = {"authorization": f"Bearer {THERE['token']}"}
ROWS = np.array([[1.5, 2.0], [3.0, -4.5]], np.float32)
IRIS = np.array([[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]], np.float32)
FIRST, SECOND = np.array([5, 7, 9], np.int32), np.array([1, 2, 3], np.int32)
PROGRAM, PACKAGED = (
    triton.InferenceServerClient(f"127.0.0.1:{THERE[name]['grpc']}") for name in ("program", "packaged")
)


def tensor(name, array):
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return made.set_data_from_numpy(array)


def pair():
    return [tensor("INPUT0", FIRST), tensor("INPUT1", SECOND)]


def said(result):
    answer = result.get_response()
    return {
        "id": answer.id,
        "model_name": answer.model_name,
        "parameters": {
            name: getattr(value, value.WhichOneof("parameter_choice"))
            for name, value in answer.parameters.items()
        },
        "outputs": {
            output.name: [output.datatype, *told(result.as_numpy(output.name))] for output in answer.outputs
        },
    }


def refused(function, *arguments, **named):
    """The status and the text of a call that fails."""
    try:
        return function(*arguments, **named)
    except InferenceServerException as error:
        return [error.status(), error.message()]


@case
def health():
    return [
        PROGRAM.is_server_live(),
        PACKAGED.is_server_ready(),
        PROGRAM.is_server_ready(),
        PROGRAM.is_model_ready("style"),
        PROGRAM.is_model_ready("not-ready"),
        PACKAGED.is_model_ready("iris", "1"),
    ]


@case
def ready_unknown():
    return refused(PROGRAM.is_model_ready, "nobody")


@case
def server_metadata():
    return PROGRAM.get_server_metadata(as_json=True)


@case
def model_metadata():
    return [PROGRAM.get_model_metadata(name, as_json=True) for name in ("addsub", "echo")]


@case
def model_metadata_packaged():
    return [PACKAGED.get_model_metadata(name, as_json=True) for name in ("iris", "iris_tf")]


@case
def index():
    return PROGRAM.get_model_repository_index(as_json=True)


@case
def infer():
    return said(PROGRAM.infer("addsub", pair(), request_id="r-17"))


@case
def outputs():
    some = [triton.InferRequestedOutput("OUTPUT1"), triton.InferRequestedOutput("OUTPUT0")]
    return [list(said(PROGRAM.infer("addsub", pair(), outputs=some[:n]))["outputs"]) for n in (1, 2)]


@case
def parameters():
    given = {"text": "é", "flag": True, "number": 7}
    return said(PROGRAM.infer("echo", [tensor("x", ROWS)], parameters=given))["parameters"]


@case
def headers():
    return said(PROGRAM.infer("style", [tensor("rows", ROWS)], headers={"x-tenant": "acme"}))["parameters"]


@case
def types():
    got = PROGRAM.infer("echo", [tensor(name, array) for name, array in samples().items()])
    return came_back(samples(), got.as_numpy)


@case
def bf16():
    array = np.array([[1.5, -3.140625], [3e38, 0.0]], ml_dtypes.bfloat16)
    got = PROGRAM.infer("echo", [tensor("x", array)]).as_numpy("x")
    return [str(got.dtype), got.astype(np.float32).tolist()]


@case
def texts():
    raw = np.array([[b"\xff\x00", b"", "Grüezi".encode()]], object)
    got = PROGRAM.infer("echo", [tensor("raw", raw)]).as_numpy("raw")
    return [list(got.shape), [value.hex() for value in got.ravel()]]


@case
def empty_and_scalar():
    none, scalar = np.zeros((0, 3), np.float32), np.array(2.5)
    return said(PROGRAM.infer("echo", [tensor("none", none), tensor("scalar", scalar)]))["outputs"]


@case
def big():
    """20 MB there and back."""
    array = np.random.default_rng(0).random((5, 1024, 1024), np.float32)
    got = PROGRAM.infer("echo", [tensor("x", array)]).as_numpy("x")
    return [list(got.shape), bool((got == array).all())]


@case
def too_big():
    array = np.zeros((17, 1024, 1024), np.float32)
    return refused(PROGRAM.infer, "echo", [tensor("x", array)])[0]


@case
def returns():
    return {
        model: said(PROGRAM.infer(model, [tensor("rows", ROWS)]))["outputs"]
        for model in ("dictionary", "list", "array")
    }


@case
def compression():
    array = np.zeros((256, 256), np.float32)
    return [
        bool(
            (
                PROGRAM.infer("echo", [tensor("x", array)], compression_algorithm=name).as_numpy("x") == array
            ).all()
        )
        for name in ("gzip", "deflate")
    ]


@case
def asynchronous():
    done, found = threading.Semaphore(0), []

    def answered(result, error):
        found.append(str(error) if error else result.get_response().id)
        done.release()

    for number in range(4):
        PROGRAM.async_infer("addsub", pair(), answered, request_id=str(number))
    assert all(done.acquire(timeout=60) for _ in range(4))
    return sorted(found)


@case
def packaged():
    found = {}
    for model in ("iris", "iris_tf"):
        for version in ("", "1"):
            inputs = [tensor(THERE["inputs"][model], IRIS)]
            answer = PACKAGED.infer(model, inputs, model_version=version)
            found[f"{model} {version}".strip()] = said(answer)["outputs"]
    return found


@case
def packaged_wrong():
    name = THERE["inputs"]["iris"]
    return {
        "shape": refused(PACKAGED.infer, "iris", [tensor(name, IRIS[:, :3].copy())]),
        "datatype": refused(PACKAGED.infer, "iris", [tensor(name, IRIS.astype(str).astype(object))]),
        "name": refused(PACKAGED.infer, "iris_tf", [tensor("nothing", IRIS)]),
        "version": refused(PACKAGED.infer, "iris", [tensor(name, IRIS)], model_version="7"),
    }


@case
def errors():
    found = {
        word: refused(PROGRAM.infer, "failing", [tensor("kind", np.array([word], object))])
        for word in ("input", "not ready", "value", "later")
    }
    found["unknown model"] = refused(PROGRAM.infer, "nobody", [tensor("x", ROWS)])
    found["not-ready"] = refused(PROGRAM.infer, "not-ready", [tensor("x", ROWS)])
    found["output"] = refused(
        PROGRAM.infer, "addsub", pair(), outputs=[triton.InferRequestedOutput("OUTPUT9")]
    )
    return found


@case
def statistics():
    """A call that only Triton's own server has."""
    return refused(PROGRAM.get_inference_statistics)[0]


@case
def admin():
    """Unload and load, in every worker: twenty connections see one state."""
    seen = {}

    def ready():
        return sorted({_ready_once("iris_tf", number) for number in range(20)})

    seen["without token"] = refused(PACKAGED.unload_model, "iris_tf")[0]
    seen["at first"] = ready()
    PACKAGED.unload_model("iris_tf", headers=ADMIN)
    seen["unloaded"] = ready()
    index = PACKAGED.get_model_repository_index(headers=ADMIN, as_json=True)
    seen["index"] = {each["name"]: each["state"] for each in index["models"]}
    inputs = [tensor(THERE["inputs"]["iris_tf"], IRIS)]
    seen["infer"] = refused(PACKAGED.infer, "iris_tf", inputs)[0]
    PACKAGED.load_model("iris_tf", headers=ADMIN)
    seen["loaded"] = ready()
    seen["answers"] = next(iter(said(PACKAGED.infer("iris_tf", inputs))["outputs"].values()))[3]
    seen["unknown"] = refused(PACKAGED.load_model, "nobody", headers=ADMIN)[0]
    return seen


def _ready_once(model, number):
    address = f"127.0.0.1:{THERE['packaged']['grpc']}"
    own = [("grpc.use_local_subchannel_pool", 1), ("grpc.primary_user_agent", str(number))]
    with triton.InferenceServerClient(address, channel_args=own) as once:
        return once.is_model_ready(model)


@case
async def aio():
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{THERE['program']['grpc']}") as calls:
        answer = await calls.infer("addsub", pair(), request_id="a")
        try:
            await calls.infer("nobody", pair())
        except InferenceServerException as error:
            status = error.status()
        return [
            await calls.is_server_live(),
            await calls.is_model_ready("addsub"),
            (await calls.get_model_metadata("addsub")).name,
            answer.as_numpy("OUTPUT1").tolist(),
            answer.get_response().id,
            status,
        ]


if __name__ == "__main__":
    case.run()

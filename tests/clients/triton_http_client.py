"""tritonclient.http and its asyncio form against our servers; run by test_tritonclient.py."""

import ml_dtypes
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from scripted import Cases, came_back, samples, servers, told
from tritonclient.utils import InferenceServerException

case = Cases()
THERE = servers()
ADMIN = {"Authorization": f"Bearer {THERE['token']}"}
ROWS = np.array([[1.5, 2.0], [3.0, -4.5]], np.float32)
IRIS = np.array([[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]], np.float32)
FIRST, SECOND = np.array([5, 7, 9], np.int32), np.array([1, 2, 3], np.int32)
PROGRAM, PACKAGED = (
    triton.InferenceServerClient(f"127.0.0.1:{THERE[name]['http']}", network_timeout=60)
    for name in ("program", "packaged")
)


def tensor(name, array, datatype=None, *, binary=True):
    datatype = datatype or triton.np_to_triton_dtype(array.dtype)
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary)


def wanted(name, *, binary=True):
    return triton.InferRequestedOutput(name, binary_data=binary)


def pair(*, binary=(True, True)):
    return [
        tensor("INPUT0", FIRST, binary=binary[0]),
        tensor("INPUT1", SECOND, binary=binary[1]),
    ]


def said(result):
    """Everything of an answer; of each output whether it came as bytes."""
    answer = result.get_response()
    return {
        **{name: value for name, value in answer.items() if name != "outputs"},
        "outputs": {
            output["name"]: [
                output["datatype"],
                *told(result.as_numpy(output["name"])),
                "data" not in output,
            ]
            for output in answer["outputs"]
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
        PROGRAM.is_model_ready("nobody"),
        PACKAGED.is_model_ready("iris", "1"),
    ]


@case
def server_metadata():
    return PROGRAM.get_server_metadata()


@case
def model_metadata():
    return [PROGRAM.get_model_metadata(name) for name in ("addsub", "echo")]


@case
def model_metadata_packaged():
    return [PACKAGED.get_model_metadata(name) for name in ("iris", "iris_tf")]


@case
def model_metadata_unknown():
    return refused(PROGRAM.get_model_metadata, "nobody")


@case
def index():
    return PROGRAM.get_model_repository_index()


@case
def binary():
    return said(PROGRAM.infer("addsub", pair()))["outputs"]


@case
def all_json():
    """It sends no Content-Type and no length of a JSON part: KServe 0.21 refuses it."""
    both = [wanted("OUTPUT0", binary=False), wanted("OUTPUT1", binary=False)]
    return said(PROGRAM.infer("addsub", pair(binary=(False, False)), outputs=both))["outputs"]


@case
def mixed():
    some = [wanted("OUTPUT1", binary=False), wanted("OUTPUT0")]
    return said(PROGRAM.infer("addsub", pair(binary=(False, True)), outputs=some))["outputs"]


@case
def one_output():
    return said(PROGRAM.infer("addsub", pair(), outputs=[wanted("OUTPUT1")]))["outputs"]


@case
def id_and_parameters():
    given = {"text": "é", "flag": True, "number": 7, "share": 0.25}
    return said(PROGRAM.infer("echo", [tensor("x", ROWS)], request_id="r-17", parameters=given))


@case
def headers():
    return said(PROGRAM.infer("style", [tensor("rows", ROWS)], headers={"X-Tenant": "acme"}))["parameters"]


@case
def types_binary():
    got = PROGRAM.infer("echo", [tensor(name, array) for name, array in samples().items()])
    return came_back(samples(), got.as_numpy)


@case
def types_json():
    outputs = [wanted(name, binary=False) for name in samples()]
    inputs = [tensor(name, array, binary=False) for name, array in samples().items()]
    return came_back(samples(), PROGRAM.infer("echo", inputs, outputs=outputs).as_numpy)


@case
def bf16():
    array = np.array([[1.5, -3.140625], [3e38, 0.0]], ml_dtypes.bfloat16)
    got = PROGRAM.infer("echo", [tensor("x", array)]).as_numpy("x")
    return [str(got.dtype), got.astype(np.float32).tolist()]


@case
def texts():
    raw = np.array([[b"\xff\x00", b"", "Grüezi".encode()]], object)
    plain = np.array(["a", "Grüezi"], object)
    got = PROGRAM.infer("echo", [tensor("raw", raw), tensor("plain", plain, binary=False)])
    return [[value.hex() for value in got.as_numpy(name).ravel()] for name in ("raw", "plain")]


@case
def texts_as_json():
    plain = np.array(["a", "Grüezi"], object)
    return said(PROGRAM.infer("echo", [tensor("x", plain)], outputs=[wanted("x", binary=False)]))["outputs"]


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
    return refused(PROGRAM.infer, "echo", [tensor("x", array)])


@case
def after_too_big():
    """Its connection was closed by the server: the client makes another."""
    return said(PROGRAM.infer("addsub", pair()))["outputs"]


@case
def returns():
    return {
        model: said(PROGRAM.infer(model, [tensor("rows", ROWS)]))["outputs"]
        for model in ("dictionary", "list", "array")
    }


@case
def gzip_request():
    return said(PROGRAM.infer("addsub", pair(), request_compression_algorithm="gzip"))["outputs"]


@case
def deflate_request():
    return refused(PROGRAM.infer, "addsub", pair(), request_compression_algorithm="deflate")


@case
def gzip_answer():
    """Asked for with a large answer, in JSON and as bytes."""
    array = np.zeros((64, 64), np.float32)
    found = []
    for is_binary in (False, True):
        outputs = [wanted("x", binary=is_binary)]
        got = PROGRAM.infer(
            "echo", [tensor("x", array)], outputs=outputs, response_compression_algorithm="gzip"
        )
        found.append(bool((got.as_numpy("x") == array).all()))
    return found


@case
def deflate_answer():
    return said(PROGRAM.infer("addsub", pair(), response_compression_algorithm="deflate"))["outputs"]


@case
def asynchronous():
    pending = [PROGRAM.async_infer("addsub", pair(), request_id=str(number)) for number in range(4)]
    return [each.get_result().get_response()["id"] for each in pending]


@case
def packaged():
    found = {}
    for model in ("iris", "iris_tf"):
        name = THERE["inputs"][model]
        for version in ("", "1"):
            answer = PACKAGED.infer(model, [tensor(name, IRIS)], model_version=version)
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
    found["output"] = refused(PROGRAM.infer, "addsub", pair(), outputs=[wanted("OUTPUT9")])
    return found


@case
def shared_memory():
    """What we have not."""
    return refused(PROGRAM.get_system_shared_memory_status)


@case
def admin():
    """Unload and load, in every worker: twenty connections see one state."""
    seen = {}

    def ready():
        return sorted({_ready_once("iris_tf") for _ in range(20)})

    seen["without token"] = refused(PACKAGED.unload_model, "iris_tf")
    seen["at first"] = ready()
    PACKAGED.unload_model("iris_tf", headers=dict(ADMIN))
    seen["unloaded"] = ready()
    seen["index"] = {
        each["name"]: each["state"] for each in PACKAGED.get_model_repository_index(headers=dict(ADMIN))
    }
    seen["infer"] = refused(PACKAGED.infer, "iris_tf", [tensor(THERE["inputs"]["iris_tf"], IRIS)])
    PACKAGED.load_model("iris_tf", headers=dict(ADMIN))
    seen["loaded"] = ready()
    answer = PACKAGED.infer("iris_tf", [tensor(THERE["inputs"]["iris_tf"], IRIS)])
    seen["answers"] = next(iter(said(answer)["outputs"].values()))[3]
    seen["unknown"] = refused(PACKAGED.load_model, "nobody", headers=dict(ADMIN))
    return seen


def _ready_once(model):
    with triton.InferenceServerClient(f"127.0.0.1:{THERE['packaged']['http']}") as once:
        return once.is_model_ready(model)


@case
async def aio():
    address = f"127.0.0.1:{THERE['program']['http']}"
    async with triton_aio.InferenceServerClient(address, conn_timeout=60) as calls:
        inputs = [
            triton_aio.InferInput("INPUT0", [3], "INT32").set_data_from_numpy(FIRST),
            triton_aio.InferInput("INPUT1", [3], "INT32").set_data_from_numpy(SECOND, binary_data=False),
        ]
        outputs = [triton_aio.InferRequestedOutput("OUTPUT1", binary_data=True)]
        answer = await calls.infer("addsub", inputs, outputs=outputs, request_id="a")
        try:
            await calls.infer("nobody", inputs)
        except InferenceServerException as error:
            status = error.status()
        return [
            await calls.is_server_live(),
            await calls.is_model_ready("addsub"),
            (await calls.get_model_metadata("addsub"))["name"],
            answer.as_numpy("OUTPUT1").tolist(),
            answer.get_response()["id"],
            status,
        ]


if __name__ == "__main__":
    case.run()

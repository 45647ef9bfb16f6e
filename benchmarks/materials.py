"""What the rows are made of: models on disk and requests.

Everything is made once, under the folder of the run, and is the same on every machine.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
V1_PATH = "/v1/models/model:predict"
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
IRIS_ROWS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]


@dataclass(frozen=True)
class Request:
    """A body, and where it goes. With gRPC it is the message, behind gRPC's five bytes.

    `client` is who sends it under load: a load generator, or tritonclient as its users call it.
    """

    body: bytes
    path: str = V1_PATH
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    protocol: Literal["http", "grpc"] = "http"
    client: Literal["generator", "tritonclient"] = "generator"

    def to(self, path: str) -> Request:
        """The same body for a server with another URL."""
        return replace(self, path=path)

    def by_tritonclient(self) -> Request:
        """The same, sent by tritonclient."""
        return replace(self, client="tritonclient")


class Materials:
    """Models below a folder, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def network(self, name: str) -> Path:
        """The folder with `model.py` and `model.pt` of one of the networks in `models/`."""
        folder = self.folder / name
        source = HERE / "models" / name / "model.py"
        made = folder / "model.py"
        if not made.exists() or made.read_bytes() != source.read_bytes():
            print(f"[setup] the model {name}", flush=True)
            _run(HERE / "make_network.py", name, folder)
        return folder

    def iris(self) -> Path:
        """The folder of the PyTorch iris example: `iris.tgz`, and `frozen/` with what is in it."""
        return self._trained("iris_pytorch", "iris.tgz")

    def iris_tensorflow(self) -> Path:
        """The folder of the TensorFlow iris example: `iris.tar.gz`, and `frozen/0001`."""
        return self._trained("iris_tensorflow", "iris.tar.gz")

    def _trained(self, example: str, archive: str) -> Path:
        folder = self.folder / example
        if not (folder / archive).exists():
            print(f"[setup] training {example}", flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            _run(EXAMPLES / example / "train.py", "--output", folder)
        return folder


def json_request(instances: Any) -> Request:
    """A V1 request."""
    return Request(json.dumps({"instances": instances}).encode())


def image() -> np.ndarray:
    """A 224 x 224 picture of floats, as a batch of one; six digits each, so 1.4 MB as JSON."""
    pixels = np.random.default_rng(0).random((1, 224, 224, 3))
    return np.round(pixels, 6).astype(np.float32)


def image_json() -> Request:
    """The picture as nested lists."""
    rounded = [[[[round(float(value), 6) for value in pixel] for pixel in row] for row in image()[0]]]
    return Request(json.dumps({"instances": rounded}, separators=(",", ":")).encode())


def npy(array: np.ndarray) -> Request:
    """An array as numpy saves it, for modelserver's V1 route."""
    file = io.BytesIO()
    np.save(file, array)
    return Request(file.getvalue(), content_type="application/x-npy")


def raw(array: np.ndarray) -> Request:
    """An array's bytes and nothing else. A type of its own: KServe reads octet-stream as JSON."""
    return Request(array.tobytes(), content_type="application/x-float32")


def v2_binary(array: np.ndarray, model: str = "model", *, binary_answer: bool = False) -> Request:
    """An array in V2's binary form: a JSON head, then the bytes."""
    data = array.tobytes()
    tensor = {
        "name": "images",
        "shape": list(array.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    asked: dict[str, Any] = {"id": "1", "inputs": [tensor]}
    if binary_answer:
        asked["parameters"] = {"binary_data_output": True}
    head = json.dumps(asked).encode()
    return Request(
        head + data,
        f"/v2/models/{model}/infer",
        "application/octet-stream",
        (("Inference-Header-Content-Length", str(len(head))),),
    )


def small(request: Request) -> Request:
    """A request of the same kind for the model `model`, which warms the way up."""
    array = np.ones((2, 4), np.float32)
    return v2_grpc(array) if request.protocol == "grpc" else v2_binary(array)


def v2_grpc(array: np.ndarray, model: str = "model") -> Request:
    """An array in a gRPC message, as raw contents."""
    from modelserver.protocols.v2_messages import ModelInferRequest

    tensor = {"name": "images", "datatype": "FP32", "shape": array.shape}
    message = ModelInferRequest(
        model_name=model, id="1", inputs=[tensor], raw_input_contents=[array.tobytes()]
    ).SerializeToString()
    headers = (("te", "trailers"),)
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    return Request(framed, GRPC_PATH, "application/grpc", headers, protocol="grpc")


def jpeg() -> Request:
    """A 640 x 480 photograph-like JPEG in base64, within JSON."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return json_request([{"image": {"b64": base64.b64encode(file.getvalue()).decode()}}])


def pixels(count: int) -> np.ndarray:
    """A picture with this many values, about; any height."""
    height = max(1, round(count / 3))
    return np.round(np.random.default_rng(0).random((1, height, 1, 3)), 6).astype(np.float32)


def _run(script: Path, *arguments: object) -> None:
    subprocess.run([sys.executable, str(script), *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)

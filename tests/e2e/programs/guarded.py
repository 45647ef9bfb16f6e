"""One model, and what the tests of the server's security need beside it, by the environment."""

import os
import socket
import stat
import struct
import sys
import time
from pathlib import Path

if os.environ.get("NO_UVLOOP"):
    sys.modules["uvloop"] = None

import modelserver as kserve

FOLDER = Path(os.environ.get("FOLDER", "."))
JUNK = b"cposix\nsystem\n(S'touch canary'\ntR." + bytes(range(256)) * 4096


def supervisors_sockets():
    """This process's ends of socket pairs that its parent has made."""
    for link in Path("/proc/self/fd").iterdir():
        try:
            is_socket = stat.S_ISSOCK(link.stat().st_mode)
        except OSError:
            continue  # the listing's own
        sock = socket.socket(fileno=os.dup(int(link.name))) if is_socket else None
        if sock is not None and sock.family == socket.AF_UNIX:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", credentials)[0] == os.getppid():
                yield sock


class Seen(kserve.Model):
    """Answers with the names of the headers that it gets."""

    def load(self):
        if "PRELOAD" in os.environ:
            while not (FOLDER / "go").exists():
                time.sleep(0.01)
        if "JUNK" in os.environ:
            self.poke()
        (FOLDER / "loaded").touch()
        self.ready = True
        return True

    def poke(self):
        try:
            (FOLDER / "poked").touch(exist_ok=False)
        except FileExistsError:
            return
        for sock in supervisors_sockets():
            sock.settimeout(0.2)
            sent = 0
            try:
                while sent < len(JUNK):
                    sent += sock.send(JUNK[sent:])
                (FOLDER / "all-taken").touch()
            except OSError:
                pass  # nobody reads at its other end, or does no more

    def predict(self, payload, headers):
        return {"predictions": payload["instances"], "headers": sorted(headers), "pid": os.getpid()}


def log_opened_files():
    """From the first model's answer on, write the name of every file that is opened to a file."""
    log = os.open(FOLDER / "opened", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def hook(event, arguments):
        if event in ("open", "os.listdir", "os.scandir"):
            os.write(log, f"{event} {arguments[0]!r}\n".encode("utf-8", "replace"))

    sys.addaudithook(hook)


if __name__ == "__main__":
    model = Seen("m")
    model.loads_before_fork = "PRELOAD" in os.environ
    if "AUDIT" in os.environ:
        model.load()
        log_opened_files()
    kserve.ModelServer().start([model])

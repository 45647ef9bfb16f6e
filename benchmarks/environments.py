"""One virtual environment for each peer, made once under `.bench/environments` and kept.

Where a peer uses a package that this project pins (torch, numpy, orjson, uvloop ...), it gets the same
version, so that the servers differ and what they stand on does not. Ours runs in the environment that runs
the benchmark.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = "modelserver"

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "kserve": ("kserve==0.21.*", "numpy", "pillow", "tensorflow-cpu"),
    "mosec": ("mosec==0.9.8", "numpy", "pillow"),
    "litserve": ("litserve==0.2.19", "numpy", "pillow"),
}
_SHARED = ("torch", "numpy", "orjson", "pillow", "httptools", "uvloop", "tensorflow_cpu")
_SHOWN = ("modelserver", "kserve", "mosec", "litserve", "torch", "tensorflow_cpu", "numpy", "orjson",
          "uvloop", "httptools", "tornado", "uvicorn", "fastapi")  # fmt: skip
_PRINT_VERSIONS = """
import json, sys
from importlib import metadata
found = {distribution.metadata["Name"].lower().replace("-", "_"): distribution.version
         for distribution in metadata.distributions()}
print(json.dumps({"python": sys.version.split()[0]} | {n: found[n] for n in sys.argv[1:] if n in found}))
"""


def interpreter(peer: str, folder: Path) -> Path:
    """The Python that runs a peer's server; its environment is made if it is not there.

    Args:
        peer: a key of `REQUIREMENTS`, or `OURS`.
        folder: where the environments are.
    """
    if peer == OURS:
        return Path(sys.executable)
    home = folder / peer
    python = home / "bin" / "python"
    pins = _pins()
    wanted = hashlib.sha256(repr((sys.version_info[:2], REQUIREMENTS[peer], pins)).encode()).hexdigest()
    stamp = home / ".ready"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"[setup] the environment of {peer} (a minute or two, once)", flush=True)
    venv.create(home, clear=True, with_pip=True)
    constraints = home / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    # torch by itself and first: what asks for torch later is then satisfied by this build.
    for packages in (("torch",), REQUIREMENTS[peer]):
        command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*command, "-c", str(constraints), *packages], check=True)
    stamp.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    """Versions of Python and of the packages worth naming in an environment."""
    done = subprocess.run([python, "-c", _PRINT_VERSIONS, *_SHOWN], capture_output=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line.partition("==")[0] in _SHARED]

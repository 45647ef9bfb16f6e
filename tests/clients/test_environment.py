"""The environment of the real clients is the one that is written down, and small."""

import json
import re
import subprocess
from pathlib import Path

import pytest

PINS = Path(__file__).resolve().parents[2] / "constraints-clients.txt"
LIST = """
import json
from importlib import metadata
print(json.dumps({each.metadata["Name"]: each.version for each in metadata.distributions()}))
"""


@pytest.fixture(scope="module")
def installed(clients_python):
    done = subprocess.run([clients_python, "-c", LIST], capture_output=True, text=True, check=True)
    return {_normal(name): version for name, version in json.loads(done.stdout).items()}


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_installed_is_pinned(installed):
    pins = dict(line.split("==") for line in PINS.read_text().splitlines())
    assert {name: installed[name] for name in installed if name not in ("pip", "setuptools")} == {
        _normal(name): version for name, version in pins.items()
    }


def test_no_framework_comes_along(installed):
    unwanted = re.compile(r"torch|tensorflow|nvidia|cuda|perf-analyzer|ray$|vllm")
    assert not [name for name in installed if unwanted.match(name)]
    assert installed["kserve"] == "0.21.0"
    assert installed["tritonclient"] == "2.73.0"

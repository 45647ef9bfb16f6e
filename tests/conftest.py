"""Servers that several test files share."""

from pathlib import Path

import certificates
import pytest
from harness import Training, serving

PROGRAMS = Path(__file__).parent / "e2e" / "programs"
CLIENTS = Path(__file__).resolve().parents[1] / ".venv-clients"


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """The server of programs/zoo.py."""
    with serving([PROGRAMS / "zoo.py"], tmp_path_factory.mktemp("zoo") / "log") as server:
        yield server.wait_ready("echo", "bare")


@pytest.fixture(scope="session")
def programs():
    """The folder of the test programs."""
    return PROGRAMS


@pytest.fixture(scope="session")
def clients_python():
    """The Python of the environment with the real clients, kserve and tritonclient."""
    python = CLIENTS / "bin" / "python"
    assert python.exists(), "make setup makes .venv-clients"
    return str(python)


@pytest.fixture(scope="session")
def trained_pytorch(tmp_path_factory):
    """The PyTorch iris model, trained and packed by its example."""
    return Training("iris_pytorch", tmp_path_factory.mktemp("iris_pytorch"), "iris.tgz")


@pytest.fixture(scope="session")
def trained_tensorflow(tmp_path_factory):
    """The TensorFlow iris model, trained and packed by its example."""
    return Training("iris_tensorflow", tmp_path_factory.mktemp("iris_tensorflow"), "iris.tar.gz")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two certificates with their keys, each signed by itself."""
    folder = tmp_path_factory.mktemp("certificates")
    return [certificates.make(folder, name) for name in ("first", "second")]


@pytest.fixture
def pair(pairs, tmp_path):
    """A copy of the first that a test may replace."""
    mine = certificates.Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    mine.replace(pairs[0])
    return mine

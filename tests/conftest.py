"""Servers that several test files share."""

from pathlib import Path

import pytest
from harness import Training, serving

PROGRAMS = Path(__file__).parent / "e2e" / "programs"


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
def trained_pytorch(tmp_path_factory):
    """The PyTorch iris model, trained and packed by its example."""
    return Training("iris_pytorch", tmp_path_factory.mktemp("iris_pytorch"), "iris.tgz")


@pytest.fixture(scope="session")
def trained_tensorflow(tmp_path_factory):
    """The TensorFlow iris model, trained and packed by its example."""
    return Training("iris_tensorflow", tmp_path_factory.mktemp("iris_tensorflow"), "iris.tar.gz")

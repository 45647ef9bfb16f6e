"""The servers that the real clients talk to, and the scripts that run them."""

import contextlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from harness import START_S, environment, serving, wait_until

HERE = Path(__file__).parent
GRPC = re.compile(rb"grpc://[^ ,]*:(\d+)")
TOKEN = "a-token-of-the-tests-0123456789"
LIMIT = str(64 * 2**20)
FLAGS = ["--enable_grpc", "true", "--grpc_port", "0"]
PROGRAM_FLAGS = ["--max_buffer_size", LIMIT, "--grpc_max_receive_message_length", LIMIT]


def _grpc_port(server):
    found = wait_until(lambda: GRPC.search(server.log.read_bytes()), what="the gRPC port in the log")
    return int(found[1])


@pytest.fixture(scope="package")
def program(programs, tmp_path_factory):
    """The server of programs/v2_models.py."""
    log = tmp_path_factory.mktemp("v2_models") / "log"
    with serving([programs / "v2_models.py", *FLAGS, *PROGRAM_FLAGS], log) as server:
        server.grpc_port = _grpc_port(server)
        yield server.wait_ready("style", "failing")


@pytest.fixture(scope="package")
def packaged(trained_pytorch, trained_tensorflow, tmp_path_factory):
    """Two workers with the packaged iris models, which may be loaded and unloaded."""
    models = [f"iris={trained_pytorch.archive}", f"iris_tf={trained_tensorflow.archive}"]
    flags = [*FLAGS, "--workers", "2", "--enable_admin", "true"]
    log = tmp_path_factory.mktemp("packaged") / "log"
    env = {"MODELSERVER_ADMIN_TOKEN": TOKEN}
    with serving(["-m", "modelserver", *models, *flags], log, env=env) as server:
        server.grpc_port = _grpc_port(server)

        def is_ready():
            assert server.process.poll() is None, server.text()
            with contextlib.suppress(ConnectionError):  # who loads before the fork hands over within 0.1 s
                return server.get("/v2/health/ready").status == 200

        wait_until(is_ready, START_S, "every model in both workers")
        yield server


@pytest.fixture(scope="package")
def talk(program, packaged, clients_python):
    """Runs a script in the environment of the clients, and gives what each of its cases came to."""
    there = {
        "token": TOKEN,
        "program": {"http": program.port, "grpc": program.grpc_port},
        "packaged": {"http": packaged.port, "grpc": packaged.grpc_port},
        "inputs": {
            name: packaged.get(f"/v2/models/{name}").json()["inputs"][0]["name"]
            for name in ("iris", "iris_tf")
        },
    }

    def run(script):
        done = subprocess.run(
            [clients_python, HERE / script, json.dumps(there)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment({"PYTHONDONTWRITEBYTECODE": ""}),  # bytecode of what the scripts import is kept
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run

"""Importing does nothing: no framework, no parsing, no logging set-up, no loop, no thread."""

import json
import pkgutil
import subprocess
import sys

import pytest

import modelserver

HEAVY = ("torch", "tensorflow", "grpc", "ray", "safetensors")

PROBE = (
    f"HEAVY = {HEAVY}"
    + """
import json, logging, signal, sys, threading
sys.argv = ["program", "--http_port", "not a number", "--unknown"]
handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]
__import__(sys.stdin.read().strip(), fromlist=["x"])
print(json.dumps({
    "heavy": [name for name in HEAVY if name in sys.modules],
    "logging": len(logging.getLogger().handlers) + len(logging.getLogger("modelserver").handlers),
    "threads": threading.active_count(),
    "signals": handlers == [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)],
    "numpy": "numpy" in sys.modules,
    "tornado": "tornado" in sys.modules,
}))
"""
)

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(modelserver.__path__, "modelserver.")
    if not module.name.endswith("__main__")
)


def probe(module: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], input=module, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", ["modelserver", "pytorchserver", "tfserver", *MODULES])
def test_importing_a_module_has_no_side_effect(module):
    seen = probe(module)
    # What answers gRPC calls is imported by GrpcServer.start, in the process that serves.
    is_plain = module in ("modelserver.rpc.server", "modelserver.rpc.whole")
    answers_grpc = module.startswith("modelserver.rpc.") and not is_plain
    answers_grpc |= module == "modelserver.client.grpc_transport"  # imported for a client of a grpc:// URL
    assert seen["heavy"] == (["grpc"] if answers_grpc else [])
    assert seen["logging"] == 0
    assert seen["threads"] == 1
    assert seen["signals"]


def test_importing_the_package_loads_neither_numpy_nor_tornado():
    seen = probe("modelserver")
    assert not seen["numpy"]
    assert not seen["tornado"]


def test_every_public_name_is_there():
    for name in modelserver.__all__:
        assert getattr(modelserver, name) is not None
    assert set(modelserver.__all__) <= set(dir(modelserver))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        modelserver.nothing  # noqa: B018

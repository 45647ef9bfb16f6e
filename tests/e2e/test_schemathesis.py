"""schemathesis, as its users run it, over the document that a server hands out: V1, V2, administrative calls.

Here it asks models that are there, by its command line; tests/faults/test_api.py lets it make names up too.
"""

import os
import re
import subprocess
import sys

import pytest
import schemathesis
from harness import environment, serving, wait_until
from schemathesis import checks

CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)
TOKEN = "token-for-schemathesis"
# 501 is the answer of a model that has no such hook.
CONFIGURATION = """\
[parameters]
"path.model_name" = "{model}"
"path.version" = 1
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501]
[[operations]]
include-path-regex = "/v2/repository/models/"
parameters = {{ "path.model_name" = "two words" }}
"""
MOST_S = 240


def run(server, model, folder, *flags):
    """schemathesis's own words on a server, asked about one model."""
    configuration = folder / "schemathesis.toml"
    configuration.write_text(CONFIGURATION.format(model=model))
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", configuration),
        *("run", f"http://127.0.0.1:{server.port}/openapi.json", "--no-color", "--generation-deterministic"),
        *("--checks", ",".join(check.__name__ for check in CHECKS), "--phases", "examples,coverage,fuzzing"),
        *("--max-examples", "15", "--warnings", "off", *flags),
    ]
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment({"PATH": os.environ["PATH"]}),
        timeout=MOST_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    selected = re.search(r"Selected: (\d+)/(\d+)\n\s+Tested: (\d+)", done.stdout)
    assert selected, done.stdout
    assert len(set(selected.groups())) == 1, done.stdout
    return int(selected[3])


ADMIN = ("--enable_admin", "true", "--workers", "2")


@pytest.mark.parametrize("flags", [(), ADMIN], ids=["plain", "administrative"])
def test_own_models(programs, tmp_path, flags):
    env = {"ONLY_READY": "1", **({"MODELSERVER_ADMIN_TOKEN": TOKEN} if flags else {})}
    with serving([programs / "v2.py", *flags], tmp_path / "log", env=env) as server:
        wait_until(lambda: server.get("/v2/health/ready").status == 200)
        count = run(server, "echo", tmp_path, *(["-H", f"Authorization: Bearer {TOKEN}"] if flags else []))
        document = server.get("/openapi.json").json()["paths"]
        described = sum(len(item.keys() - {"parameters"}) for item in document.values())
        assert count == described - 1  # it leaves out the page that it has the document from
        assert ("/v2/repository/models/{model_name}/load" in document) == bool(flags)
        log = server.text()
        for path in ("/v2/models/echo/infer", "/v1/models/echo:predict", "/v2/repository/index"):
            assert f" POST {path} 200 " in log, log
        for order in ("load", "unload") if flags else ():
            assert f" POST /v2/repository/models/two%20words/{order} 200 " in log, log
        assert " ERROR " not in log


@pytest.fixture(scope="module")
def iris(trained_pytorch, trained_tensorflow, tmp_path_factory):
    """The iris models of both frameworks."""
    models = [f"torch={trained_pytorch.archive}", f"tf={trained_tensorflow.archive}"]
    with serving(["-m", "modelserver", *models], tmp_path_factory.mktemp("iris") / "log") as running:
        yield running.wait_ready("torch", "tf")


@pytest.mark.parametrize("model", ["torch", "tf"])
def test_models_of_the_frameworks(iris, tmp_path, model):
    assert iris.get("/v2/health/ready").json() == {"ready": True}
    run(iris, model, tmp_path)
    assert " ERROR " not in iris.text()


@pytest.mark.parametrize("model", ["torch", "tf"])
@pytest.mark.parametrize("path", ["", "/versions/{version}"])
def test_an_answer_with_tensors_is_as_described(iris, model, path):
    described = schemathesis.openapi.from_url(f"http://127.0.0.1:{iris.port}/openapi.json")
    where = {"model_name": model, **({"version": 1} if path else {})}
    metadata = described["/v2/models/{model_name}" + path]["GET"].Case(path_parameters=where)
    (rows,) = metadata.call_and_validate(checks=CHECKS).json()["inputs"]
    rows |= {"shape": [2, 4], "data": [6.8, 2.8, 4.8, 1.4, 6.0, 3.4, 4.5, 1.6]}
    infer = described["/v2/models/{model_name}" + path + "/infer"]["POST"]
    for wish in (False, True):
        body = {"id": "7", "inputs": [rows], "parameters": {"binary_data_output": wish}}
        case = infer.Case(path_parameters=where, body=body, media_type="application/json")
        answer = case.call_and_validate(checks=(*CHECKS, checks.response_headers_conformance))
        assert answer.status_code == 200
        assert ("inference-header-content-length" in answer.headers) == wish

"""``python -m modelserver`` on real archives of real models, from the start to the last error message."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import tarfile

import pytest
from harness import run, serving, wait_until

SPECIFICATION_ROWS = {"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}
CURL = re.compile(r"curl (localhost:\d+\S*) -d ('.*')$", re.MULTILINE)


@pytest.fixture(scope="session")
def archives(trained_pytorch, trained_tensorflow):
    """Both iris archives, trained on the real data."""
    return {"torch": trained_pytorch.archive, "tf": trained_tensorflow.archive}


@pytest.fixture(scope="session", params=["1", "2"])
def both(request, archives, tmp_path_factory):
    """One server with both models, with one and with two workers."""
    models = [f"iris={archives['tf']}", f"iris_torch={archives['torch']}"]
    log = tmp_path_factory.mktemp("both") / "log"
    with serving(["-m", "modelserver", *models, "--workers", request.param], log) as server:
        yield server.wait_ready("iris", "iris_torch")


def is_probabilities(rows):
    return len(rows) == 2 and all(len(row) == 3 and abs(sum(row) - 1) < 1e-5 for row in rows)


@pytest.mark.parametrize("model", ["iris", "iris_torch"])
def test_one_server_answers_for_both_frameworks(both, model):
    response = both.predict(SPECIFICATION_ROWS, model)
    assert response.status == 200
    predictions = response.json()["predictions"]
    assert is_probabilities(predictions)
    # The specification's two flowers are versicolor, the second class.
    assert [row.index(max(row)) for row in predictions] == [1, 1]


def test_start_up_says_what_is_served_and_prints_curl_lines_that_work(both):
    text = wait_until(lambda: both.text() if both.text().count("Try: curl") == 2 else None)
    assert "Model iris version 1 loaded in" in text
    assert "tensorflow_savedmodel; inputs" in text
    assert "FP32[-1, 4]" in text
    lines = CURL.findall(text)
    assert len(lines) == 2
    for url, body in lines:
        path = url.partition("/")[2]
        response = both.request("POST", f"/{path}", shlex.split(body)[0])
        assert response.status == 200
        assert len(response.json()["predictions"]) == 1


_NO_JSON = "Unrecognized request format|JSON Parse error"  # KServe's words, TensorFlow Serving's
WRONG = {
    "not JSON": ('{"instances": [[6.8', _NO_JSON),
    "ragged rows": ({"instances": [[1, 2, 3, 4], [1, 2, 3]]}, r"\b1\b.*\[3\].*\[4\]"),
    "wrong width": ({"instances": [[1.0, 2.0, 3.0]]}, r"\[1, ?3\].*4\]"),
    "strings for numbers": ({"instances": [["1", "2", "3", "4"]]}, "string|float"),
    "null": ({"instances": [[1, 2, 3, None]]}, "null|float"),
    "missing instances": ({"rows": [[1, 2, 3, 4]]}, "instances"),
    "no rows": ({"instances": []}, "No values in .instances."),
    "instances no list": ({"instances": 5}, "list"),
    "rows of objects": ({"instances": [{"nope": 1}]}, "nope|measurements"),
    "too deep": ("[" * 5000, _NO_JSON),
    "bytes": (b"\x00\xff", _NO_JSON),
}


@pytest.mark.parametrize("model", ["iris", "iris_torch"])
@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_bad_input_is_a_clear_400_and_the_server_unharmed(both, model, wrong):
    body, says = WRONG[wrong]
    response = both.predict(body, model)
    assert response.status == 400, response.body
    error = response.json()["error"]
    assert re.search(says, error), error
    assert "Traceback" not in error
    assert "/" not in error.replace("list/array", "")
    assert both.predict(SPECIFICATION_ROWS, model).status == 200


def test_unpacked_folders_are_removed_at_the_end(archives, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = {"TMPDIR": str(scratch)}
    with serving(
        ["-m", "modelserver", archives["torch"], "--workers", "2"], tmp_path / "log", env=env
    ) as server:
        server.wait_ready("iris")
        assert list(scratch.glob("modelserver-*/0/unpacked/model.py"))
        assert server.stop() == 0
    assert list(scratch.iterdir()) == []


def test_sigterm_while_unpacking_leaves_nothing(tmp_path):
    archive = tmp_path / "large.tgz"
    weights = tmp_path / "model.pt"
    with weights.open("wb") as file:
        file.truncate(3 * 1024**3)  # unpacking 3 GiB of zeros takes seconds
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(weights, "model.pt")
    weights.unlink()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    flags = ["--http_port", "0", "--max_archive_ratio", "1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "modelserver", str(archive), *flags],
        env={"TMPDIR": str(scratch), "PATH": ""},
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    wait_until(lambda: list(scratch.rglob("model.pt")), 60, "unpacking to begin")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert list(scratch.iterdir()) == []


def test_a_port_in_use_is_told_before_anything_is_unpacked(archives):
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(["-m", "modelserver", archives["torch"], "--http_port", port])
    assert (done.returncode, done.stderr) == (
        1,
        f"modelserver: Cannot listen on port {port}: Address already in use. "
        f"Choose another with --http_port.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ([], 2, "no model given: name an archive or folder, such as iris.tgz"),
        (["nowhere.tgz"], 1, "modelserver: nowhere.tgz: no such file or folder."),
        (["a=.", "a=/tmp"], 2, "two models are called a"),
        ([".", "/tmp", "--model_name", "x"], 2, "--model_name names --model_dir or a single PATH"),
        ([".", "--workers", "-1"], 1, "modelserver: --workers is -1 and must be at least 0."),
        ([".", "--no_such_flag"], 2, "unrecognized arguments: --no_such_flag"),
        (["check", "nowhere"], 1, "modelserver: nowhere: no such file or folder."),
        (["pack", "nowhere", "-o", "x.tgz"], 1, "modelserver: "),
    ],
)
def test_wrong_usage_is_one_clear_line(arguments, status, says, tmp_path):
    done = run(["-m", "modelserver", *arguments], cwd=tmp_path)
    assert done.returncode == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [[], ["check"], ["pack"]])
def test_help(command):
    done = run(["-m", "modelserver", *command, "--help"])
    assert done.returncode == 0
    assert f"usage: python -m modelserver {(command or ['[serve]'])[0]}" in done.stdout


@pytest.mark.parametrize("package", ["pytorchserver", "tfserver"])
def test_a_predictor_by_itself_with_kserves_flags(package, archives, tmp_path):
    archive = archives["torch" if package == "pytorchserver" else "tf"]
    with serving(["-m", package, "--model_dir", archive, "--model_name", "m"], tmp_path / "log") as server:
        assert is_probabilities(server.wait_ready("m").predict(SPECIFICATION_ROWS, "m").json()["predictions"])


def test_the_default_name_of_model_dir_is_kserves(archives, tmp_path):
    with serving(["-m", "pytorchserver", "--model_dir", archives["torch"]], tmp_path / "log") as server:
        assert server.wait_ready("model").predict(SPECIFICATION_ROWS).status == 200


@pytest.mark.parametrize("framework", ["torch", "tf"])
def test_check_reports_and_exits_0(archives, framework, tmp_path):
    request = tmp_path / "request.json"
    request.write_text(json.dumps(SPECIFICATION_ROWS))
    done = run(["-m", "modelserver", "check", archives[framework], "--input", request])
    assert done.returncode == 0, done.stderr
    for word in ("loaded in", "MiB", "FP32 [-1, 4]", '"predictions":[[', "ms median"):
        assert word in done.stdout
    assert run(["-m", "modelserver", "check", archives[framework]]).returncode == 0


def test_check_explains_a_request_that_does_not_fit(archives, tmp_path):
    request = tmp_path / "request.json"
    request.write_text('{"instances": [[1, 2, 3]]}')
    done = run(["-m", "modelserver", "check", archives["torch"], "--input", request])
    assert done.returncode == 1
    assert done.stderr.startswith("modelserver: ")
    assert "[1, 3]" in done.stderr
    assert "Traceback" not in done.stderr


def test_pack_makes_what_serve_and_check_take(trained_pytorch, tmp_path):
    source = trained_pytorch.folder / "frozen"
    archive = tmp_path / "packed.tgz"
    done = run(["-m", "modelserver", "pack", source, "-o", archive])
    assert done.returncode == 0, done.stderr
    assert "model.py" in done.stdout
    assert run(["-m", "modelserver", "check", archive]).returncode == 0
    again = run(["-m", "modelserver", "pack", source, "-o", archive])
    assert again.returncode == 1
    assert "--overwrite" in again.stderr
    assert run(["-m", "modelserver", "pack", source, "-o", archive, "--overwrite"]).returncode == 0


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not an archive", "empty"])
def test_a_damaged_archive_is_one_line_and_exit_1(archives, tmp_path, damage):
    whole = archives["torch"].read_bytes()
    broken = tmp_path / "broken.tgz"
    middle = len(whole) // 2
    broken.write_bytes(
        {
            "truncated": whole[:middle],
            "flipped": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :],
            "not an archive": b"hello" * 100,
            "empty": b"",
        }[damage]
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = run(
        ["-m", "modelserver", broken, "--http_port", "0", "--access_log", "false"],
        env={"TMPDIR": str(scratch)},
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("modelserver: ")]
    assert "broken.tgz" in line
    assert "Traceback" not in done.stderr
    assert list(scratch.iterdir()) == []

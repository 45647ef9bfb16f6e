"""TensorFlow's threads and GPU memory as the command line has them."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tfserver
from tfserver.options import Options, SessionOptions


def parse(*arguments: str) -> Options:
    parser = argparse.ArgumentParser()
    tfserver.predictor.add_arguments(parser.add_argument_group("models"))
    return Options.of(parser.parse_args(arguments))


BOTH, INTRA, INTER = (f"--tensorflow_{kind}_parallelism" for kind in ("session", "intra_op", "inter_op"))


@pytest.mark.parametrize(
    ("arguments", "session"),
    [
        ([], SessionOptions()),
        ([BOTH, "4"], SessionOptions(4, 4)),
        ([INTRA, "3", INTER, "2"], SessionOptions(3, 2)),
        ([INTER, "2"], SessionOptions(0, 2)),
        ([BOTH, "0", INTRA, "3"], SessionOptions(3)),
        (["--per_process_gpu_memory_fraction=0.25"], SessionOptions(gpu_memory_fraction=0.25)),
    ],
)
def test_what_the_command_line_says(arguments: list[str], session: SessionOptions) -> None:
    assert parse(*arguments).session == session


def test_another_command_line_says_nothing() -> None:
    assert Options.of(argparse.Namespace()) == parse() == Options()


@pytest.mark.parametrize(
    ("arguments", "iterations"),
    [
        (["--enable_model_warmup"], 1),
        (["--enable_model_warmup=false"], 0),
        (["--enable_model_warmup=true", "--num_request_iterations_for_warmup=5"], 5),
        (["--enable_model_warmup=F", "--num_request_iterations_for_warmup=5"], 0),
        (["--num_request_iterations_for_warmup=0"], 1),
    ],
)
def test_warm_up(arguments: list[str], iterations: int) -> None:
    assert parse(*arguments).warm_up_iterations == iterations


def test_switches() -> None:
    told = parse("--enable_signature_method_name_check=1", "--enable_per_model_batching_parameters")
    assert (told.checks_method_names, told.per_model_batching) == (True, True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([BOTH, "4", INTRA, "2"], f"{BOTH} sets what {INTRA} and {INTER} set"),
        ([INTER, "2", BOTH, "4"], f"{BOTH} sets what {INTRA} and {INTER} set"),
        ([INTRA, "-1"], "-1 is less than 0"),
        ([INTRA, "many"], "invalid"),
        (["--per_process_gpu_memory_fraction", "1.5"], "1.5 is not between 0 and 1"),
        (["--per_process_gpu_memory_fraction", "nan"], "nan is not between 0 and 1"),
        (["--enable_model_warmup", "maybe"], "'maybe' is not true or false"),
    ],
)
def test_what_is_refused(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


THREADS = """
import argparse, json, sys
from collections import Counter
from pathlib import Path
import tfserver
parser = argparse.ArgumentParser()
tfserver.predictor.add_arguments(parser.add_argument_group("models"))
model = tfserver.predictor.build("m", Path(sys.argv[1]), parser.parse_args(sys.argv[2:]))
model.load()
names = Counter(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
inter = names.pop("tf_Compute", 0)
fraction = model._served.saved_model._session._config.gpu_options.per_process_gpu_memory_fraction
answer = model.predict({"instances": [[1.0, 2.0, 3.0, 4.0]]})
print(json.dumps([inter, sum(names.values()), fraction, len(answer["predictions"])]))
"""


def test_tensorflow_makes_as_many_threads(keras_export: Path) -> None:
    """Against the environment, which is what a worker's share of the cores comes as, and against the rule of
    one thread for short models."""
    environ = os.environ | {"TF_NUM_INTRAOP_THREADS": "2", "TF_NUM_INTEROP_THREADS": "2"}

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", THREADS, str(keras_export), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)

    both = start(BOTH, "5")
    pair = start(INTRA, "3", INTER, "4", "--per_process_gpu_memory_fraction", "0.5")
    inter, others, fraction, rows = json.loads(both.communicate()[0])
    assert (inter, fraction, rows) == (5, 0.0, 1)
    assert json.loads(pair.communicate()[0]) == [4, others - 2, 0.5, 1]

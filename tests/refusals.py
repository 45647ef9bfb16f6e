"""Starts the command line on a model that it must refuse, and sees that it did so cleanly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import environment

LOG_LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ [A-Z]+ modelserver[.\w]*: "
    r"|WARNING: All log messages before absl|[IWE]\d{4} 00:00:"  # TensorFlow's, before its log is set up
)

# Linux counts to a process what the one that forked it had, and that may be pytest with all its tests.
_MEASURED = """
import json, resource, subprocess, sys
status = subprocess.run(sys.argv[2:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([used.ru_maxrss * 1024, used.ru_utime + used.ru_stime], file)
sys.exit(status if status >= 0 else 128 - status)
"""

_ENDS_S = 60.0


@dataclass(frozen=True)
class Refusal:
    """How a server that did not start has ended.

    Attributes:
        text: its message, without ``modelserver: ``. A message with lines of code to copy has several.
        peak_bytes: the most memory that it had.
        cpu_s: processor time of it and its children.
    """

    text: str
    peak_bytes: int
    cpu_s: float


def refused(
    model: Path,
    *flags: str | Path,
    scratch: Path | None = None,
    env: Mapping[str, str] | None = None,
    lines: int = 1,
    wrapper: Sequence[str] = (),
) -> Refusal:
    """Run ``python -m modelserver MODEL`` and see that it refuses: exit 1, one message, nothing left behind.

    Args:
        model: the archive, folder or file.
        flags: more arguments.
        scratch: an empty folder to unpack in; by default a new one beside the model.
        env: set in the environment. ``TMPDIR`` is the scratch folder unless it is here.
        lines: of the message.
        wrapper: a command in front.
    """
    own = tempfile.mkdtemp(prefix="scratch-", dir=model.parent) if scratch is None else None
    temporary = Path(own) if own else scratch
    assert temporary is not None
    with tempfile.NamedTemporaryFile() as measured:
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", "-c", _MEASURED, measured.name, *wrapper),
                *(sys.executable, "-m", "modelserver", str(model), *map(str, flags), "--http_port", "0"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment({"TMPDIR": str(temporary), **(env or {})}),
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=_ENDS_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # a server that serves what it should refuse
            output, _ = process.communicate()
        assert process.returncode == 1, f"{process.returncode}:\n{output}"
        peak_bytes, cpu_s = json.load(measured)
    assert "Traceback" not in output, output
    # The log has a writer of its own, so its lines may come before or after.
    said = [line for line in output.splitlines() if not LOG_LINE.match(line)]
    if not said:  # a model that a worker loads: the worker's log says it
        said = [line for line in output.splitlines() if " ERROR modelserver.server: model " in line]
        said[:1] = [LOG_LINE.sub("modelserver: ", line) for line in said[:1]]
    assert len(said) == lines, output
    assert said[0].startswith("modelserver: "), output
    assert os.listdir(temporary) == [], "something was left in the temporary folder"  # noqa: PTH208
    if own:
        temporary.rmdir()
    text = "\n".join(said).removeprefix("modelserver: ")
    return Refusal(text, peak_bytes, cpu_s)

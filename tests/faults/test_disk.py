"""Disks that are full, read-only or left dirty: nothing half-made stays, and serving needs no disk.

Small disks are tmpfs in a mount namespace of their own, which needs root or user namespaces; where neither is
to be had, those tests are skipped with a reason, and a limit on the size of files stands in for a full disk.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import LISTENING, Server, environment, request, run, serving, wait_until
from refusals import refused

MIB = 1024 * 1024
TWICE = b"import torch\nclass Twice(torch.nn.Module):\n    def forward(self, x):\n        return 2 * x\n"
SLOW = b"import time\ntime.sleep(60)\n" + TWICE
ROWS = {"instances": [[1.5]]}


def packed(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """An empty folder to unpack in."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A model that works."""
    return packed(tmp_path / "twice.tgz", {"model.py": TWICE, "vocabulary.dat": bytes(100_000)})


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model that needs more than 8 MiB."""
    return packed(
        tmp_path / "large.tgz", {"model.py": TWICE, "table.dat": random.Random(0).randbytes(9 * MIB)}
    )


@functools.cache
def _namespace() -> tuple[str, ...]:
    """What runs a command in a mount namespace of its own."""
    for flags in (("-m",), ("-U", "-r", "-m")):
        command = ("unshare", *flags)
        with contextlib.suppress(FileNotFoundError):
            script = "mount -t tmpfs tmpfs /tmp"
            if subprocess.run([*command, "sh", "-c", script], capture_output=True).returncode == 0:
                return command
    pytest.skip("a tmpfs can be mounted neither as this user nor in a user namespace")


def on_small_disk(folder: Path, options: str) -> tuple[str, ...]:
    """A command in front: ``folder`` is a tmpfs for what runs behind it; tells what is left on it."""
    script = (
        'options=$1; folder=$2; shift 2; mount -t tmpfs -o "$options" tmpfs "$folder" || exit 99; '
        '"$@"; status=$?; '
        'test -z "$(ls -A "$folder")" || { ls -AR "$folder"; exit 98; }; exit $status'
    )
    return (*_namespace(), "sh", "-c", script, "sh", options, str(folder))


# row 50


def test_a_full_disk_is_told_and_nothing_stays(large: Path, scratch: Path) -> None:
    told = refused(large, scratch=scratch, wrapper=on_small_disk(scratch, "size=8m")).text
    assert told == (
        "large.tgz was not unpacked: the disk does not take it: No space left on device. "
        "Free some space there, or set TMPDIR to a folder that can be written and has room."
    )


def test_a_disk_without_room_for_another_name(large: Path, scratch: Path) -> None:
    for inodes in range(
        2, 8, 2
    ):  # the disk itself, the workspace, its mark, the model's folder, one more, files
        told = refused(large, scratch=scratch, wrapper=on_small_disk(scratch, f"nr_inodes={inodes}")).text
        assert "No space left on device. " in told
        assert "set TMPDIR" in told.replace("Set", "set")


def test_a_file_that_may_not_be_so_large_is_told_and_nothing_stays(large: Path, scratch: Path) -> None:
    """Needs no rights: a write fails half way, as on a full disk."""
    told = refused(large, scratch=scratch, wrapper=("sh", "-c", 'ulimit -f 8192 && exec "$@"', "sh")).text
    assert told == (
        "large.tgz was not unpacked: the disk does not take it: File too large. "
        "Free some space there, or set TMPDIR to a folder that can be written and has room."
    )


def without_rights() -> tuple[str, ...]:
    """A command in front that takes root's right to write everywhere away."""
    if os.geteuid():
        return ()
    return ("setpriv", "--bounding-set", "-dac_override", "--")


CANNOT = "Cannot make a temporary folder for unpacking: {}. Set TMPDIR to another."


def test_a_read_only_temporary_folder_is_told(archive: Path, scratch: Path) -> None:
    told = refused(archive, scratch=scratch, wrapper=on_small_disk(scratch, "ro")).text
    assert told == CANNOT.format("Read-only file system")


def test_a_temporary_folder_without_the_right_to_write_is_told(archive: Path, scratch: Path) -> None:
    scratch.chmod(0o555)
    told = refused(archive, scratch=scratch, wrapper=without_rights()).text
    assert told == CANNOT.format("Permission denied")


@pytest.mark.parametrize(
    ("name", "cause"), [("file", "Not a directory"), ("none", "No such file or directory")]
)
def test_a_tmpdir_that_is_no_folder_is_told_and_no_other_is_taken(
    archive: Path, scratch: Path, tmp_path: Path, name: str, cause: str
) -> None:
    (tmp_path / "file").touch()
    told = refused(archive, scratch=scratch, env={"TMPDIR": str(tmp_path / name)}).text
    assert told == CANNOT.format(cause)


def test_a_plain_folder_is_served_without_any_place_to_write(tmp_path: Path) -> None:
    folder = tmp_path / "twice"
    folder.mkdir()
    (folder / "model.py").write_bytes(TWICE)
    folder.chmod(0o555)
    env = {"TMPDIR": str(tmp_path / "none")}
    with serving(["-m", "modelserver", folder, "--workers", "2"], tmp_path / "log", env=env) as server:
        assert server.wait_ready("twice").predict(ROWS, "twice").json() == {"predictions": [[3.0]]}
    assert [path.name for path in folder.iterdir()] == ["model.py"]


def test_a_disk_that_fills_up_does_not_hurt_serving(archive: Path, scratch: Path, tmp_path: Path) -> None:
    """Once a model is unpacked nothing is written, not even for a new worker."""
    command = [*on_small_disk(scratch, "size=4m"), sys.executable, "-m", "modelserver", str(archive)]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--workers", "2", "--http_port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment({"TMPDIR": str(scratch)}),
            start_new_session=True,
        )
    try:
        found = wait_until(lambda: LISTENING.search(log.read_bytes()), 60, "listening")
        (supervisor,) = children(process.pid)
        server = Server(process, log, int(found[1]))
        server.wait_ready("twice")
        disk = Path(f"/proc/{supervisor}/root{scratch}")  # as the server sees it
        with pytest.raises(OSError, match="No space left"):
            fill(disk / "filler")
        for _ in range(20):
            assert server.predict(ROWS, "twice").json() == {"predictions": [[3.0]]}
        wait_until(lambda: len(children(supervisor)) == 2, what="two workers")
        killed = children(supervisor)[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: killed not in children(supervisor) and len(children(supervisor)) == 2)
        for _ in range(20):
            assert server.predict(ROWS, "twice").status == 200
        (disk / "filler").unlink()
        os.kill(supervisor, signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()  # 98: something is left on the disk
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def children(pid: int) -> list[int]:
    paths = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in paths for child in path.read_text().split()]


# -- signals and what they leave


def workspaces(scratch: Path) -> list[str]:
    return sorted(path.name for path in scratch.iterdir())


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Needs a place to unpack in, and is refused at once."""
    return packed(tmp_path / "broken.tgz", {"../evil": b""})


def test_what_a_killed_server_left_is_removed_by_the_next_start(
    archive: Path, broken: Path, scratch: Path, tmp_path: Path
) -> None:
    env = {"TMPDIR": str(scratch)}
    serve = ["-m", "modelserver", archive, "--workers", "2"]
    start = ["-m", "modelserver", broken, "--http_port", "0"]
    with serving(serve, tmp_path / "log1", env=env) as living:
        living.wait_ready("twice")
        (of_living,) = workspaces(scratch)
        with serving(serve, tmp_path / "log2", env=env) as killed:
            killed.wait_ready("twice")
            wait_until(lambda: len(killed.workers()) == 2, what="two workers")
            workers = killed.workers()
            (of_killed,) = set(workspaces(scratch)) - {of_living}
            # Stopped, the workers do not notice that the supervisor is gone: they still have the folder.
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            try:
                killed.process.kill()
                killed.process.wait()
                assert run(start, env=env).returncode == 1
                assert workspaces(scratch) == sorted([of_living, of_killed])
            finally:
                for pid in workers:
                    os.kill(pid, signal.SIGCONT)
            wait_until(lambda: not any(is_alive(pid) for pid in workers), 30, "the workers to end")
        assert workspaces(scratch) == sorted([of_living, of_killed])
        done = run(start, env=env)
        assert workspaces(scratch) == [of_living]
        assert f"{of_killed}, which a server that was killed has left behind" in done.stderr
        assert living.predict(ROWS, "twice").status == 200
    assert workspaces(scratch) == []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def starting(model: Path, scratch: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "modelserver", str(model), "--http_port", "0", *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment({"TMPDIR": str(scratch)}),
        start_new_session=True,
    )
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def takes_minutes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of 64 GiB of zeros."""
    path = tmp_path_factory.mktemp("large") / "large.tgz"
    info = tarfile.TarInfo("model.pt")
    info.size = 64 * 1024 * MIB
    part = gzip.compress(bytes(64 * MIB))
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT)) + part * 1024)
    return path


NO_LIMITS = ("--max_archive_ratio", "1000000", "--max_unpacked_bytes", str(2**40))


# row 13


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_unpacking_ends_it_and_leaves_nothing(
    takes_minutes: Path, scratch: Path, number: int, status: int
) -> None:
    with starting(takes_minutes, scratch, *NO_LIMITS) as process:
        wait_until(lambda: list(scratch.rglob("model.pt")), 60, "unpacking to begin")
        begin = time.monotonic()
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert time.monotonic() - begin < 5
    assert process.returncode == status
    assert "Traceback" not in output
    assert workspaces(scratch) == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_while_loading_leaves_no_unpacked_folder(scratch: Path, tmp_path: Path, workers: str) -> None:
    archive = packed(tmp_path / "slow.tgz", {"model.py": SLOW})
    with starting(archive, scratch, "--workers", workers) as process:
        assert process.stdout is not None
        found = LISTENING.search(process.stdout.readline().encode())
        assert found is not None
        wait_until(lambda: is_up(int(found[1])), 60, "the server to answer while the model loads")
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert time.monotonic() - begin < 10  # load() takes 60 s
    assert process.returncode == 0, output
    assert workspaces(scratch) == []


def is_up(port: int) -> bool:
    return request(port, "GET", "/").status == 200


def test_sigkill_while_unpacking_leaves_what_the_next_start_removes(
    takes_minutes: Path, broken: Path, scratch: Path
) -> None:
    with starting(takes_minutes, scratch, *NO_LIMITS) as process:
        wait_until(lambda: list(scratch.rglob("model.pt")), 60, "unpacking to begin")
        process.kill()
        process.wait()
    assert len(workspaces(scratch)) == 1
    assert refused(broken, env={"TMPDIR": str(scratch)}, scratch=scratch).text.startswith("broken.tgz")

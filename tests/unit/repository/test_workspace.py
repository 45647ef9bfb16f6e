"""Workspaces come and go with their process; what dead processes left is removed, and nothing else."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from modelserver.errors import StartError
from modelserver.repository.workspace import Workspace

MARK = ".in-use"


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def dead(parent: Path, name: str = "modelserver-abcdefgh") -> Path:
    """What a killed process leaves."""
    folder = parent / name
    (folder / "0" / "unpacked").mkdir(parents=True)
    (folder / "0" / "unpacked" / "model.pt").write_bytes(b"weights")
    (folder / MARK).touch()
    return folder


def make_another() -> None:
    with Workspace() as workspace:
        workspace.new_folder()


def test_nothing_is_made_before_it_is_needed_and_nothing_stays(parent: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    model.write_bytes(b"weights")
    with Workspace() as workspace:
        assert list(parent.iterdir()) == []
        first, second = workspace.new_folder(), workspace.new_folder(link=model)
        assert first.parent == second.parent
        assert list(first.iterdir()) == []
        assert (second / "model.pt").read_bytes() == b"weights"
        (first / "sub").mkdir(0o500)
    assert list(parent.iterdir()) == []
    assert model.exists()


def test_removal_follows_no_link(parent: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").touch()
    folder = dead(parent)
    for place in (folder / "link", folder / "0" / "link"):
        place.symlink_to(outside)
    make_another()
    assert not folder.exists()
    assert (outside / "canary").exists()


def test_what_is_not_known_to_be_dead_is_not_touched(parent: Path, tmp_path: Path) -> None:
    outside = dead(tmp_path)
    (parent / "modelserver-alinkxyz").symlink_to(outside)
    (parent / "modelserver-training").mkdir()  # somebody's own, and it looks like ours
    dead(parent, "modelserver-compile-abcdefgh")
    dead(parent, "modelserver-ABCDEFGH")
    fifo = parent / "modelserver-fifomark"
    fifo.mkdir()
    os.mkfifo(fifo / MARK)
    linked = parent / "modelserver-linkmark"
    linked.mkdir()
    (linked / MARK).symlink_to(outside / MARK)
    (parent / "modelserver-filexyz_").touch()
    before = sorted(path.name for path in parent.iterdir())
    make_another()
    assert sorted(path.name for path in parent.iterdir()) == before
    assert (outside / "0" / "unpacked" / "model.pt").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_another_users_folder_is_not_touched(parent: Path) -> None:
    folder = dead(parent)
    os.chown(folder, 65534, 65534)
    make_another()
    assert (folder / "0" / "unpacked" / "model.pt").exists()


def test_a_folder_in_use_is_not_touched_not_even_by_its_own_process(parent: Path) -> None:
    with Workspace() as workspace:
        folder = workspace.new_folder()
        make_another()
        assert folder.is_dir()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_lock_is_inherited_by_a_fork(parent: Path) -> None:
    """As by workers: the folder is theirs too, however their supervisor ended."""
    ready, done = os.pipe(), os.pipe()
    supervisor = os.fork()
    if not supervisor:
        try:
            os.close(done[1])
            Workspace().new_folder()
            if not os.fork():
                os.write(ready[1], b"x")
                os.read(done[0], 1)  # until the test closes its end
        finally:
            os._exit(0)
    os.waitpid(supervisor, 0)
    os.close(done[0])
    os.read(ready[0], 1)
    (left,) = parent.iterdir()
    make_another()
    assert left.is_dir()
    os.close(done[1])
    until = time.monotonic() + 30
    while left.exists() and time.monotonic() < until:  # the worker ends
        make_another()
    assert not left.exists()
    for end in ready:
        os.close(end)


def test_a_removal_that_was_cut_short_is_ended_by_the_next(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = dead(parent)

    def stops(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", stops)
        make_another()
    assert (folder / MARK).exists()
    make_another()
    assert not folder.exists()


def test_a_file_system_without_locks_is_used_without_one(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    left = dead(parent)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with Workspace() as workspace:
        assert not (workspace.new_folder().parent / MARK).exists()
    assert list(parent.iterdir()) == [left]  # it cannot be known whether it is in use


@pytest.mark.parametrize("name", ["file", "none"])
def test_a_temporary_directory_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / name))
    with pytest.raises(StartError, match=r"Cannot make a temporary folder .*\. Set TMPDIR to another\.$"):
        make_another()


def _come_and_go(seed: int, failed: str) -> None:
    """Make and remove workspaces until killed; a folder that is taken away while in use is noted."""
    chance = random.Random(seed)
    while True:
        workspace = Workspace()
        folder = workspace.new_folder()
        (folder / "file").write_bytes(b"x")
        for _ in range(chance.randrange(50)):
            if not (folder / "file").exists():
                Path(failed).touch()
        workspace.remove()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
def test_many_that_start_and_are_killed_at_once_keep_theirs_and_leave_nothing(
    parent: Path, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    processes = []
    for seed in range(12):
        process = context.Process(target=_come_and_go, args=(seed, str(tmp_path / "failed")))
        process.start()
        processes.append(process)
        if seed >= 4:  # they have begun
            victim = processes[seed - 4]
            _wait_for_work(parent, victim.pid)
            os.kill(victim.pid or 0, signal.SIGKILL)
    for process in processes:
        process.kill()
        process.join()
    make_another()
    assert not (tmp_path / "failed").exists()
    # Killed before it had locked its mark, a process leaves a folder with nothing else in it.
    left = [path for path in parent.rglob("*") if path.is_file() and path.name != ".in-use-soon"]
    assert left == []


def _wait_for_work(parent: Path, pid: int | None) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        links = Path(f"/proc/{pid}/fd").glob("*")
        if any(str(parent) in str(_target(link)) for link in links):
            return
    raise AssertionError("it does not begin")


def _target(link: Path) -> Path | None:
    try:
        return link.readlink()
    except OSError:
        return None

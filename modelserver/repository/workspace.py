"""Where archives are unpacked: a folder of this process's own in the temporary directory.

    modelserver-k3v9x_2a/.in-use      locked as long as the process lives, or a child that was forked from it
                         0, 1 ...     one folder for each model that has to be unpacked

It is made when something has to be unpacked, so that a model that is a plain folder needs no disk that can be
written. It is removed when the process ends. A process that is killed cannot do that; so whoever makes a
folder first removes those that dead processes have left, or a disk would fill up with every restart.

Rules of the room: a folder is removed only if it is the user's own, holds the mark, and the mark's lock is
free. The lock is ``flock``'s: it belongs to the open file, which forked workers inherit and programs that are
started anew do not. A mark has its name only while it is locked for the first time, so there is no moment at
which a living folder looks like a dead one, and it is removed last, so that a removal that was cut short is
ended by the next start. No link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from types import TracebackType

from modelserver.errors import StartError

_log = logging.getLogger("modelserver.server")

_PREFIX = "modelserver-"
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")  # as tempfile.mkdtemp makes them
_MARK = ".in-use"
_UNLOCKED_MARK = ".in-use-soon"


class Workspace:
    """Folders for what this process unpacks, in ``TMPDIR`` or the system's temporary directory.

    A context manager: at the end of the block all of it is removed.

    >>> with Workspace() as workspace:
    ...     folder = workspace.new_folder()
    ...     folder.is_dir()
    True
    >>> folder.exists()
    False
    """

    def __init__(self) -> None:
        self._root: Path | None = None
        self._lock = -1
        self._folders = 0

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def new_folder(self, link: Path | None = None) -> Path:
        """Make an empty folder for one model.

        Args:
            link: put a link to this file into it, under the file's name.

        Raises:
            StartError: the disk is full or cannot be written, or there is no such temporary directory.
        """
        try:
            if self._root is None:
                self._make()
            assert self._root is not None
            folder = self._root / str(self._folders)
            folder.mkdir()
            self._folders += 1
            if link is not None:
                (folder / link.name).symlink_to(link.resolve())
        except OSError as error:
            raise StartError(
                f"Cannot make a temporary folder for unpacking: {error.strerror}. Set TMPDIR to another."
            ) from error
        return folder

    def remove(self) -> None:
        """Remove all that was made. What cannot be removed is told in the log."""
        root, self._root = self._root, None
        if root is None:
            return
        _remove(root)
        os.close(self._lock)

    def _make(self) -> None:
        # tempfile passes over a TMPDIR that cannot be used, without a word: the files would be on another
        # disk than the one that was asked for.
        parent = Path(os.environ.get("TMPDIR") or tempfile.gettempdir()).absolute()
        _remove_dead(parent)
        root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            self._lock = _new_mark(root)
        except BaseException:
            shutil.rmtree(root, ignore_errors=True)
            raise
        self._root = root


def _new_mark(root: Path) -> int:
    """A locked mark; its descriptor. Where the file system has no locks, it never gets its name."""
    descriptor = os.open(root / _UNLOCKED_MARK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            os.close(descriptor)
            raise
    else:
        (root / _UNLOCKED_MARK).rename(root / _MARK)
    return descriptor


def _remove_dead(parent: Path) -> None:
    """Remove what processes that were killed have left in ``parent``."""
    with os.scandir(parent) as entries:
        candidates = [entry.name for entry in entries if _NAME.fullmatch(entry.name)]
    for name in candidates:
        folder = parent / name
        lock = _lock_of_dead(folder)
        if lock is None:
            continue
        try:
            if _remove(folder):
                _log.info("Removed %s, which a server that was killed has left behind", folder)
        finally:
            os.close(lock)


def _lock_of_dead(folder: Path) -> int | None:
    """The lock of a folder that nobody uses, taken now; ``None`` for what is not to be touched."""
    descriptor = -1
    with contextlib.suppress(OSError):  # no mark, in use, or removed meanwhile by another start
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return None
        # A FIFO in the mark's place must not be waited for.
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(folder / _MARK, flags)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mark = os.fstat(descriptor)
        if stat.S_ISREG(mark.st_mode) and mark.st_nlink == 1:  # 0: another start has just removed it
            return descriptor
    if descriptor >= 0:
        os.close(descriptor)
    return None


def _remove(root: Path) -> bool:
    """Remove a folder, its mark last."""
    try:
        with os.scandir(root) as entries:
            found = [entry for entry in entries if entry.name != _MARK]
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink()
        shutil.rmtree(root)
    except OSError as error:
        _log.warning("%s cannot be removed: %s", root, error.strerror)
        return False
    return True

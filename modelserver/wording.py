"""The words of an exception that a client may read.

Rules of the room: exceptions in, text out. What an exception says of the machine is taken out: the folders of
a path, and the addresses of objects. Texts of the server's own errors are written for clients and stay as
they are.
"""

from __future__ import annotations

import re

# 'File "/a/b/c.py"': in quotes, names may hold blanks.
_QUOTED_PATH = re.compile(r"""(?<=(["']))/(?!/)(?:[^"'/\n]+/+)+[^"'/\n]*(?=\1)""")
# Elsewhere a path ends at a blank. Not after a letter or a dot: a/b, ./a/b and http://host/a/b are no paths
# of this machine. One name alone says nothing of folders.
_PATH = re.compile(
    r"""(?<![\w./<)\]])(?:file://)?/(?!/)(?:[^\s/"'<>|;,()\[\]{}]+/+)+[^\s/"'<>|;,()\[\]{}]*"""
)
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+|\b0x[0-9a-fA-F]{8,}\b")


def scrubbed(text: str) -> str:
    """Text without the folders of absolute paths and without addresses in memory.

    >>> scrubbed("cannot read /srv/models/iris/weights.pt: <Net object at 0x7f3a2c1b4d90>")
    'cannot read weights.pt: <Net object at 0x...>'
    """
    if "/" in text:
        text = _QUOTED_PATH.sub(_last_name, text)
        text = _PATH.sub(_last_name, text)
    return _ADDRESS.sub(_short_address, text) if "0x" in text else text


def _last_name(path: re.Match[str]) -> str:
    return path[0].rstrip("/").rpartition("/")[2]


def _short_address(found: re.Match[str]) -> str:
    return "at 0x..." if found[0].startswith("at") else "0x..."


def type_and_text(error: BaseException) -> str:
    """``ValueError : text``, as KServe writes it. An OSError's text holds a path: only its cause is shown."""
    try:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"{type(error).__name__} : {scrubbed(text)}"
    except Exception:  # its text is code of the model's too
        return f"{type(error).__name__} : (an exception whose text cannot be read)"

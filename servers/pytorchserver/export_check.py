"""Looks through a ``.pt2`` archive before torch loads it, and refuses one that carries code.

``torch.export.load`` is not made for files of strangers (its documentation says so): that of torch 2.13 falls
back to unpickling with ``weights_only=False``, evaluates the archive's shape expressions and guards as
Python, and loads native libraries. A program that ``torch.export.save`` made of an ordinary network needs
none of that. (Operators are torch's to check, and it does.) Nothing here makes a sandbox: who may send a
``model.py`` may run code anyway. It keeps a file that looks like weights from being more.

Rules of the room: read with torch's own archive reader, since two zip readers may see different members in
one file; anything not known to be plain is refused.
"""

from __future__ import annotations

import ast
import functools
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader

from modelserver import ModelLoadError
from pytorchserver.weights import refuse_old_torch

_NAME = re.compile(r"[\w.*/+:# -]*")
"""Names and targets: they end up in Python source that torch writes, where these cannot make a call."""
_TREE_SPEC = re.compile(r"[\w\s\[\]{}\":,.\\/-]*")
"""JSON inside JSON, likewise without a way to write a call."""
_FREE_TEXT = frozenset(("metadata", "as_string", "as_strings"))
"""Comments, and strings that torch quotes."""
_WORD = re.compile(r"(?!__)\w*")
_PLAIN_NODES = (
    ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.Call, ast.keyword,
    ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Tuple, ast.List, ast.expr_context,
    ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_PLAIN_CALLS = frozenset(
    ("abs", "bool", "cast_symbool_to_symint_guardless", "float", "int", "max", "min", "round")
)
_PLAIN_ATTRIBUTES = frozenset(("dim", "item", "ndim", "numel", "shape", "size", "storage_offset", "stride"))


def refuse_code(path: Path) -> None:
    """Raise if loading the ``.pt2`` file could run anything but the network.

    Raises:
        ModelLoadError: names what it carries; or torch is too old.
    """
    refuse_old_torch()
    with zipfile.ZipFile(path) as archive:
        # The format before torch 2.8: torch reads it with zipfile, and unpickles.
        if "version" in archive.namelist():
            raise ModelLoadError(
                f"{path.name} was written by torch.export of torch 2.7 or older. Export it again with torch "
                f"{torch.__version__.partition('+')[0]}."
            )
    with PT2ArchiveReader(str(path)) as reader:
        for name in reader.get_file_names():
            # torch finds members regardless of case. Members that hold tensors are not read here.
            found = _code_in(name.lower(), functools.partial(reader.read_bytes, name))
            if found:
                raise ModelLoadError(
                    f"{path.name} carries {found}, which could run any code, so it is refused. Export the "
                    f"network alone, with torch.export.save(torch.export.export(model, example), ...)."
                )


def _code_in(name: str, read: Callable[[], bytes]) -> str | None:
    """What in one member of the archive is more than data, in words."""
    if name.startswith("data/aotinductor/"):
        return "native code"
    if name.startswith(("data/constants/custom_obj", "data/constants/opaque_obj")):
        return "a pickled object"
    if name.startswith("models/") or name.endswith(".json"):
        return next(_code_in_json(json.loads(read())), None)
    if name.startswith("data/sample_inputs/") or name.endswith((".pt", ".pkl")):
        return None if _is_tensors(read()) else "a pickle of Python objects"
    return None


def _is_tensors(content: bytes) -> bool:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError):
        return False
    return True


def _code_in_json(document: Any) -> Iterator[str]:
    todo: list[tuple[str, Any]] = [("", document)]
    while todo:
        key, value = todo.pop()
        if key in _FREE_TEXT:
            continue
        if isinstance(value, dict):
            yield from (f"the name {name[:80]!r}" for name in value if not _NAME.fullmatch(name))
            todo.extend(value.items())
        elif isinstance(value, list):
            todo.extend((key, item) for item in value)
        elif key in ("expr_str", "guards_code"):
            if not _is_plain(value):
                yield f"the expression {str(value)[:80]!r}"
        elif key in ("in_spec", "out_spec"):
            if not _TREE_SPEC.fullmatch(str(value)) or "__enum__" in str(value):
                yield "an odd description of its inputs"
        elif isinstance(value, str) and not _NAME.fullmatch(value):
            yield f"the name {value[:80]!r}"
        elif (key == "use_pickle" and value) or (
            key == "path_name" and str(value).startswith(("custom_obj", "opaque_obj"))
        ):
            yield "a pickled object"


def _is_plain(expression: Any) -> bool:
    """Whether the text is arithmetic and comparisons of sizes: ``L['x'].size()[1] == 4``."""
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _PLAIN_NODES) and _is_plain_node(node) for node in ast.walk(tree))


def _is_plain_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return _WORD.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or _WORD.fullmatch(node.value) is not None
    if isinstance(node, ast.Attribute):
        on_math = isinstance(node.value, ast.Name) and node.value.id == "math"
        on_torch = isinstance(node.value, ast.Name) and node.value.id == "torch"
        return (
            node.attr in _PLAIN_ATTRIBUTES
            or (on_math and node.attr[0].islower())
            or (on_torch and node.attr.startswith("sym_"))
        )
    if isinstance(node, ast.Call):
        # sympy's functions are capitalised: Max, FloorDiv, Symbol.
        return isinstance(node.func, ast.Attribute) or (
            isinstance(node.func, ast.Name) and (node.func.id[0].isupper() or node.func.id in _PLAIN_CALLS)
        )
    return True

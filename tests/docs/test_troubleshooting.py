"""docs/troubleshooting.md against the source, both ways.

Every message that the page quotes is in the source, and every message of the source that a user can meet is
quoted on the page. A message is compared by its fixed parts: ``…`` in the page and ``{...}`` or ``%s`` in the
source stand for what differs.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
OTHERS = "## Messages of others"

# Calls whose text reaches a user. The errors of `errors.py` itself are its calls of `super().__init__`.
SAY = {
    *("InvalidInput", "ModelLoadError", "ArchiveError", "StartError", "InferenceError", "HookNotImplemented"),
    *("ConfigError", "GraphError", "NoJsonForm", "ModelNotReady", "NoModelReady", "Refused", "_Unservable"),
    *("error", "warning", "exception", "__init__"),
    *("CallFailed", "CallTimeout", "NothingCame", "ServerUnreachable", "UnreadableAnswer"),
}
SAY_FUNCTIONS = {"TypeError", "ValueError"}  # in modules where it is the user's mistake, and is told
TELLING = (
    *("dialects.py", "http_messages.py", "options.py", "patience.py"),
    *("model_server.py", "v1_json.py", "answers.py"),
)
Template = tuple[str, str]  # where, text


def text_of(node: ast.AST | None) -> str | None:
    """A string's text with ``…`` for what is filled in; ``None`` if it is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(?:\.\d)?[sdgrf]", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        return "".join(map(str, parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = text_of(node.left), text_of(node.right)
        return "".join(side or "…" for side in sides) if any(sides) else None
    if isinstance(node, ast.IfExp):
        return text_of(node.body) or text_of(node.orelse)
    return None


def source() -> dict[Path, ast.Module]:
    files = sorted([*(ROOT / "modelserver").rglob("*.py"), *(ROOT / "servers").rglob("*.py")])
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}


@pytest.fixture(scope="module")
def strings() -> set[str]:
    """Every string of the source that is no docstring."""
    found = set()
    for tree in source().values():
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            text = text_of(node)
            if text and id(node) not in docstrings:
                found.add(text)
    return found


@pytest.fixture(scope="module")
def said() -> list[Template]:
    """The messages of the source that a user can meet, with their places."""
    found = []
    for path, tree in source().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in SAY or (name in SAY_FUNCTIONS and path.name in TELLING):
                # The first text is the message: what Refused has behind it (expected, fix) explains itself.
                text = next(filter(None, map(text_of, node.args)), "")
                if not hands_on(text):
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", text))
    return found


def quoted() -> list[str]:
    """The messages of the page: code in the first column, and in the line above a table that says what the
    messages in it begin with. The section on other programs is left out."""
    text = PAGE.read_text(encoding="utf-8").partition(OTHERS)[0]
    cells = [line.split(" | ")[0] for line in text.splitlines() if line.startswith(("| ", "The message is "))]
    return [code for cell in cells for _, code in re.findall(r"(`+)(.+?)\1", cell)]


def pattern(message: str) -> re.Pattern[str]:
    """What a source text must hold for this quotation: its fixed parts, in order."""
    return re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)


def hands_on(message: str) -> bool:
    """Whether a text has hardly a word of its own and only hands on what another error says."""
    return len(re.sub(r"\W", "", message)) < 6


def test_every_quoted_message_is_in_the_source(strings):
    example = "KeyError : 'instances'"
    missing = [
        message
        for message in quoted()
        if message != example and not any(pattern(message).search(text) for text in strings)
    ]
    assert not missing


def test_every_message_of_the_source_is_quoted(said):
    patterns = [pattern(message) for message in quoted() if not hands_on(message)]
    missing = [f"{where} {text}" for where, text in said if not any(each.search(text) for each in patterns)]
    assert not missing, "add rows to docs/troubleshooting.md:\n" + "\n".join(missing)


def test_this_test_reads_the_page_and_the_source(said, strings):
    assert len(quoted()) > 150
    assert len(said) > 150
    assert "invalid path" in strings


@pytest.mark.parametrize(
    "row", [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "|" in line]
)
def test_every_row_is_complete(row):
    cells = [cell.strip() for cell in row.strip().strip("|").split(" | ")]
    assert all(cells)

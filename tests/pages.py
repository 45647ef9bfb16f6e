"""Reads Markdown pages: their code blocks, the commands in them, and the output that stands below.

A ```console block is a terminal: lines that start with ``$ `` are commands, the others are what they print.
How a page is followed is in ``tests/docs/test_pages.py``; the convention for writers is in CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_FENCE = re.compile(r"^```(?P<language>[\w-]*) ?(?P<rest>.*)$")
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
_NUMBER = re.compile(r"\d+(\.\d+)?([eE][-+]?\d+)?")
_VARIES = ("date", "x-request-id")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. ``runs`` is false if its first line says ``no-run``."""

    language: str
    runs: bool
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command of a console block, and the output shown below it."""

    words: list[str]
    output: str


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, from top to bottom."""
    start = None
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if fence and start is None:
            start, lines = (number, fence), list[str]()
        elif line == "```" and start is not None:
            opened, fence = start
            yield Block(fence["language"], fence["rest"] != "no-run", "\n".join(lines), opened)
            start = None
        elif start is not None:
            lines.append(line)
    assert start is None, f"line {start and start[0]}: the block has no end"


def commands(block: Block) -> list[Command]:
    """The commands of a console block. A line that ends with a backslash goes on in the next."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (found[-1][0][:-1] + line.lstrip(), [])
        else:
            assert found, f"line {block.line}: output without a command above it"
            found[-1][1].append(line)
    return [Command(shlex.split(command), "\n".join(output).strip("\n")) for command, output in found]


def links(text: str) -> list[str]:
    """The targets of a page's links, code left out."""
    return [match["target"] for match in _LINK.finditer(_without_code(text))]


def anchors(text: str) -> set[str]:
    """The ``#anchors`` of a page's headings, as GitHub makes them."""
    headings = (match["text"].lower() for match in _HEADING.finditer(_without_blocks(text)))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def _without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "code", _without_blocks(text))


@dataclass
class Curl:
    """A curl command line, as far as the pages use it. It is sent by Python: curl may not be installed."""

    port: int = 0
    method: str = "GET"
    path: str = ""
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    shows_headers: bool = False

    @classmethod
    def of(cls, words: list[str], folder: Path) -> Curl:
        """Read the words after ``$``; files are looked for in ``folder``."""
        curl = cls()
        rest = iter(words[1:])
        for word in rest:
            match word:
                case "-s" | "-sN":
                    pass
                case "-i" | "-si":
                    curl.shows_headers = True
                case "-X":
                    curl.method = next(rest)
                case "-H":
                    name, _, value = next(rest).partition(": ")
                    curl.headers[name] = value
                case "-d" | "--data-binary":
                    value = next(rest)
                    curl.method = "POST"
                    curl.body = (folder / value[1:]).read_bytes() if value[0] == "@" else value.encode()
                    if word == "-d":
                        curl.body = curl.body.replace(b"\r", b"").replace(b"\n", b"")
                    curl.headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
                case "|":
                    assert list(rest) == ["python", "-m", "json.tool"]
                case _:
                    url = urlsplit(word if "//" in word else f"//{word}")
                    assert url.hostname == "localhost", word
                    assert not curl.path, word
                    curl.port, curl.path = url.port or 80, url.path
        return curl


def assert_answer(
    shown: str, curl: Curl, status: int, headers: Mapping[str, str], body: bytes, tolerance: float
) -> None:
    """Compare an answer with what stands below its curl command."""
    head, _, text = shown.partition("\n\n") if curl.shows_headers else ("", "", shown)
    steady = body.decode() == text
    for line in head.splitlines():
        assert_header_line(line, status, headers, steady=steady)
    try:
        want = json.loads(text)
    except ValueError:
        assert body.decode().rstrip("\n") == text
    else:
        assert_close(json.loads(body), want, tolerance)


def assert_header_line(line: str, status: int, headers: Mapping[str, str], *, steady: bool) -> None:
    """Compare a line of ``curl -i`` with the answer: the status, or a header.

    The value of one that differs each time is not compared, nor the length of a body that is not ``steady``.
    """
    if line.startswith("HTTP/1.1 "):
        assert line.split(" ")[1] == str(status)
        return
    name, _, value = line.partition(": ")
    got = headers.get(name, headers.get(name.lower()))
    assert got is not None, f"no header {name}"
    if name.lower() not in _VARIES and (steady or name.lower() != "content-length"):
        assert got == value, name


def assert_close(got: Any, want: Any, tolerance: float, where: str = "$") -> None:
    """Compare two JSON values: the same shape and words, numbers within ``tolerance``."""
    if isinstance(want, dict):
        assert isinstance(got, dict), f"{where}: {got!r} is not an object"
        assert list(got) == list(want), where
        for key in want:
            assert_close(got[key], want[key], tolerance, f"{where}.{key}")
    elif isinstance(want, list):
        assert isinstance(got, list), f"{where}: {got!r} is not a list"
        assert len(got) == len(want), where
        for index, (one, other) in enumerate(zip(got, want, strict=True)):
            assert_close(one, other, tolerance, f"{where}[{index}]")
    elif isinstance(want, float):
        assert isinstance(got, float), f"{where}: {got!r} is no number with a fraction"
        assert abs(got - want) <= tolerance, f"{where}: {got} is not near {want}"
    else:
        assert got == want, where


def same_but_for_numbers(text: str) -> list[str]:
    """The lines of an output with every number made 0: times, sizes, ports and digits differ by machine."""
    return [_NUMBER.sub("0", line.rstrip()) for line in text.splitlines()]


def missing_from_log(shown: str, log: str) -> list[str]:
    """The log lines that a page shows and the log lacks, numbers and order aside; ``...`` is no line."""
    there = Counter(map(_after_time, same_but_for_numbers(log)))
    wanted = Counter(_after_time(line) for line in same_but_for_numbers(shown) if line != "...")
    return list((wanted - there).elements())


def _after_time(line: str) -> str:
    """A log line without its time and process id, and without the addresses, which depend on the network."""
    line = re.sub(r"(?<=Listening on ).*", "...", line)
    return re.sub(r"^.*?(?=(INFO|WARNING|ERROR) modelserver\.)", "", line)

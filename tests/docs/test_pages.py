"""README and docs are followed from top to bottom, as a reader would, and must show what then happens.

Each page gets a scratch folder with a copy of ``examples/``, where the two iris models are trained. A python
block whose first line names a file is saved under that name, any other one runs to its end, and finds the
server that was started above it on ``localhost:8080``. In a console block a ``python`` command that serves
is started, ``curl`` asks it, ``check`` and ``pack`` run; the output is compared with what stands below.
``pages`` has the comparisons.
"""

import re
import shutil
from pathlib import Path

import harness
import pages
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
LINKING = [*PAGES, *sorted(ROOT.glob("examples/**/README.md"))]
ARCHIVES = {"IRIS_TF": "examples/iris_tensorflow/iris.tar.gz", "IRIS_TORCH": "examples/iris_pytorch/iris.tgz"}
TOLERANCE = 0.02  # a training: the last digits depend on the processor
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1"}


def name_of(page):
    return str(page.relative_to(ROOT))


def runs(block):
    return block.runs and block.language in ("python", "console")


FOLLOWED = [page for page in PAGES if any(map(runs, pages.blocks(page.read_text(encoding="utf-8"))))]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, trained_pytorch, trained_tensorflow):
    """A folder with ``examples/``, trained as ``make serve`` does it."""
    folder = tmp_path_factory.mktemp("checkout")
    made = shutil.ignore_patterns("*.tgz", "*.tar.gz", "frozen", "__pycache__")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=made)
    for training in (trained_pytorch, trained_tensorflow):
        shutil.copytree(training.folder, folder / "examples" / training.name, dirs_exist_ok=True)
    return folder


@pytest.fixture
def reader(trained, tmp_path):
    folder = tmp_path / "checkout"
    shutil.copytree(trained, folder)
    reader = Reader(folder)
    yield reader
    reader.stop()


@pytest.mark.parametrize("page", FOLLOWED, ids=name_of)
def test_the_page_shows_what_happens(reader, page):
    for block in filter(runs, pages.blocks(page.read_text(encoding="utf-8"))):
        where = f"{name_of(page)}, line {block.line}"
        if block.language == "python":
            reader.save_or_run(block.text, where)
        else:
            for command in pages.commands(block):
                reader.type(command, f"{where}: {' '.join(command.words)}")


class Reader:
    """Somebody who does what a page says."""

    def __init__(self, folder):
        self.folder = folder
        self.server = None
        self._serving = None
        self._count = 0

    def save_or_run(self, text, where):
        file = re.match(r"# (\w+\.py)\b", text)
        if file:
            (self.folder / file[1]).write_text(text, encoding="utf-8")
            arguments = ["-W", "error", "-c", f"import {file[1].removesuffix('.py')}"]
        else:
            block = self.folder / "block.py"
            if self.server is not None:  # as for curl: it has a port of its own
                text = text.replace("localhost:8080", f"localhost:{self.server.port}")
            block.write_text(text, encoding="utf-8")
            is_test = "\nimport pytest\n" in text
            arguments = ["-W", "error", *(["-m", "pytest", "-q"] if is_test else []), block]
        done = harness.run(arguments, env=ENVIRONMENT, cwd=self.folder)
        assert done.returncode == 0, f"{where}:\n{done.stdout}{done.stderr}"

    def type(self, command, where):
        match command.words:
            case ["make", "serve"]:
                self.serve(make_serve(), command.output, where)
            case ["python", "-m", "modelserver", "check" | "pack", *_]:
                done = harness.run(command.words[1:], env=ENVIRONMENT, cwd=self.folder)
                errors = [line for line in done.stderr.splitlines() if line.startswith("modelserver: ")]
                printed = "\n".join([*done.stdout.splitlines(), *errors])
                wanted = pages.same_but_for_numbers(command.output)
                assert pages.same_but_for_numbers(printed) == wanted, f"{where}:\n{printed}"
                assert done.returncode == (1 if errors else 0), where
            case ["python", *arguments]:
                self.serve(arguments, command.output, where)
            case ["curl", *_]:
                self.ask(command, where)
            case _:
                pytest.fail(f"{where}: not a command that is tried here; put it into a ```sh block")

    def serve(self, arguments, shown, where):
        self.stop()
        self._count += 1
        log = self.folder / f"server-{self._count}.log"
        self._serving = harness.serving(arguments, log, env=ENVIRONMENT, cwd=self.folder)
        self.server = self._serving.__enter__()
        self.server.wait_ready(*self.server.get("/v1/models").json()["models"])
        try:
            harness.wait_until(lambda: not pages.missing_from_log(shown, self.server.text()), 10)
        except AssertionError:
            missing = pages.missing_from_log(shown, self.server.text())
            pytest.fail(f"{where}: not in the log: {missing}\n{self.server.text()}")

    def ask(self, command, where):
        assert self.server is not None, f"{where}: no server was started above"
        curl = pages.Curl.of(command.words, self.folder)
        answer = self.server.request(curl.method, curl.path, curl.body, headers=curl.headers)
        try:
            pages.assert_answer(command.output, curl, answer.status, answer.headers, answer.body, TOLERANCE)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}\n{answer.headers}{answer.body.decode()}") from error

    def stop(self):
        """As Ctrl-C: a page that starts another server on the same port has stopped the one before."""
        if self.server is not None:
            server, self.server = self.server, None
            assert server.stop() == 0, server.text()
            self._serving.__exit__(None, None, None)


def make_serve():
    """The arguments of python in the Makefile's recipe of ``serve``."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    command = re.search(r"@exec \$\(BIN\)/python (.*?) \\\n", makefile)
    assert command, "the Makefile's recipe of `serve` has changed: see Reader"
    for variable, archive in ARCHIVES.items():
        assert f"{variable} := {archive}\n" in makefile
    return [re.sub(r"\$\((\w+)\)", lambda v: ARCHIVES[v[1]], word) for word in command[1].split()]


# -- links


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in pages.links(text):
        if re.match(r"[a-z]+:", target):
            continue  # another site
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{name_of(page)} links {target}"
        assert ROOT in there.resolve().parents
        if anchor:
            assert anchor in pages.anchors(there.read_text(encoding="utf-8")), f"{name_of(page)}: {target}"


def test_the_index_links_every_page():
    linked = set(pages.links((DOCS / "README.md").read_text(encoding="utf-8")))
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= linked


# -- the reader of pages itself: what it must notice


PAGE = """\
```python no-run
x =
```
```console
$ curl -i localhost:8080/v1/models/m:predict \\
    -d '{"instances": [1]}'
HTTP/1.1 200 OK
Content-Type: application/json

{"predictions": [0.5]}
$ python -m modelserver check m.tgz
loaded in 0.01 s
```
[a](b.md#c-d) `[no](link)`
# C, `d`!
"""


def test_blocks_commands_links_and_anchors():
    shown, console = pages.blocks(PAGE)
    assert (shown.language, shown.runs, shown.text, shown.line) == ("python", False, "x =", 1)
    ask, check = pages.commands(console)
    assert ask.words == ["curl", "-i", "localhost:8080/v1/models/m:predict", "-d", '{"instances": [1]}']
    assert ask.output.endswith('json\n\n{"predictions": [0.5]}')
    assert check.output == "loaded in 0.01 s"
    assert (pages.links(PAGE), pages.anchors(PAGE)) == (["b.md#c-d"], {"c-d"})


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (400, "application/json", b'{"predictions":[0.5]}'),
        (200, "text/plain", b'{"predictions":[0.5]}'),
        (200, "application/json", b'{"predictions":[0.6]}'),
        (200, "application/json", b'{"predictions":[0.5,0.5]}'),
        (200, "application/json", b'{"predictions":[null]}'),
        (200, "application/json", b'{"error":"x"}'),
    ],
)
def test_an_answer_that_is_not_the_one_shown_is_noticed(status, kind, body):
    ask = pages.commands(list(pages.blocks(PAGE))[1])[0]
    curl = pages.Curl.of(ask.words, ROOT)
    pages.assert_answer(
        ask.output, curl, 200, {"Content-Type": "application/json"}, b'{"predictions":[0.501]}', 0.02
    )
    with pytest.raises(AssertionError):
        pages.assert_answer(ask.output, curl, status, {"Content-Type": kind}, body, 0.02)


def test_a_line_that_is_not_in_the_log_is_noticed():
    log = "2026-01-02 03:04:05,678 9 INFO modelserver.server: Worker 0 (pid 7) is ready\nother"
    shown = "2027-01-02 03:04:05,678 10 INFO modelserver.server: Worker 1 (pid 8) is ready"
    assert pages.missing_from_log(shown, log) == []
    assert pages.missing_from_log(f"...\n{shown}\n{shown}", log) == [
        "INFO modelserver.server: Worker 0 (pid 0) is ready"
    ]

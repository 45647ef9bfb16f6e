"""What the Dockerfiles do, done without a container engine.

A Dockerfile is read line by line: what it copies goes into a clean folder (by the rules of `.dockerignore`),
its pip steps run there as they are written, in a fresh virtual environment with its `ENV` and `ARG` values,
and its `ENTRYPOINT` and `HEALTHCHECK` are run with that environment's python. Each image is made once.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass, field
from pathlib import Path

import certificates
import numpy as np
import pytest
from harness import serving, wait_until

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = {"pytorch": "Dockerfile.pytorch", "tensorflow": "Dockerfile.tf"}
PIP_S = 900.0

# One flower of each kind, in the order of the classes.
FLOWERS = {"instances": [[5.1, 3.5, 1.4, 0.2], [5.9, 3.0, 4.2, 1.5], [6.5, 3.0, 5.8, 2.2]]}

MODEL_PY = """\
import torch

import modelserver as kserve


class Doubler(kserve.Model):
    def __init__(self, name):
        super().__init__(name)
        self.load()

    def load(self):
        self.ready = True

    def predict(self, request):
        return {"predictions": (torch.tensor(request["instances"]) * 2).tolist()}


if __name__ == "__main__":
    kserve.ModelServer(workers=1).start([Doubler("custom-model")])
"""

# As in the specification, with an image of this project in the place of the plain python.
USERS_DOCKERFILE = """\
FROM modelserver-pytorch
COPY model.py ./
ENTRYPOINT ["python","-m","model"]
"""

CORE_PY = """\
import importlib.util
import sys

from modelserver import Model, ModelServer


class Adder(Model):
    def load(self):
        self.ready = True

    def predict(self, request):
        there = [name for name in ("torch", "tensorflow") if importlib.util.find_spec(name)]
        loaded = [name for name in ("torch", "tensorflow") if name in sys.modules]
        return {"predictions": [sum(row) for row in request["instances"]], "frameworks": there + loaded}


ModelServer().start([Adder("adder")])
"""


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile: word and the rest, with continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0].upper(), line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether `.dockerignore` leaves a path out: the last pattern that hits it or a folder above counts."""
    parts = path.split("/")
    prefixes = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    out = False
    for pattern in patterns:
        name = pattern.removeprefix("!")
        if name.startswith("**/"):
            hit = any(fnmatch.fnmatchcase(part, name[3:]) for part in parts)
        else:
            hit = any(
                fnmatch.fnmatchcase(prefix, name)
                for prefix in prefixes
                if prefix.count("/") == name.count("/")
            )
        if hit:
            out = not pattern.startswith("!")
    return out


@dataclass
class Image:
    """A folder in place of the file system, a virtual environment in place of python, and the settings."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The WORKDIR."""
        return self.root / self.workdir.lstrip("/")

    @property
    def python(self) -> str:
        return str(self.root / "venv" / "bin" / "python")

    def build(self, text: str, context: Path, patterns: list[str]) -> Image:
        for word, rest in instructions(text):
            getattr(self, f"_{word.lower()}")(rest, context, patterns)
        return self

    def _from(self, rest: str, *_: object) -> None:
        if not (self.root / "venv").exists():
            venv.create(self.root / "venv", with_pip=True)

    def _arg(self, rest: str, *_: object) -> None:
        name, _, value = rest.partition("=")
        self.arguments[name] = value.strip('"')

    def _env(self, rest: str, *_: object) -> None:
        self.environ |= dict(pair.split("=", 1) for pair in rest.split())

    def _workdir(self, rest: str, *_: object) -> None:
        self.workdir = rest
        self.folder.mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str, context: Path, patterns: list[str]) -> None:
        *sources, target = rest.split()
        for source in sources:
            found = [context / source, *(context / source).rglob("*")]
            names = [path.relative_to(context).as_posix() for path in found if path.is_file()]
            names = [name for name in names if not ignored(name, patterns)]
            assert names, f"COPY {source}: not there, or left out by .dockerignore"
            for name in names:
                inside = Path(name).relative_to(source)
                to = self.folder / target / (source if inside == Path() else inside)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(context / name, to)

    def _run(self, rest: str, *_: object) -> None:
        if not rest.startswith("pip install "):
            assert rest.startswith("useradd "), f"a step that this test does not know: RUN {rest}"
            return
        self.steps.append(rest)
        done = self.shell(["/bin/sh", "-c", rest], self.environ | self.arguments, PIP_S)
        assert done.returncode == 0, done.stdout + done.stderr

    def _user(self, rest: str, *_: object) -> None:
        self.user = rest

    def _expose(self, *_: object) -> None:
        pass

    def _healthcheck(self, rest: str, *_: object) -> None:
        self.healthcheck = json.loads(rest.partition("CMD ")[2])

    def _entrypoint(self, rest: str, *_: object) -> None:
        self.entrypoint = json.loads(rest)

    def shell(
        self, command: list[str], environ: dict[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the WORKDIR with the environment's programs first on the PATH."""
        path = f"{self.root / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            command,
            cwd=self.folder,
            env=clean_environment() | environ | {"PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def health(self, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.shell(self.healthcheck, self.environ | environ, 30)

    def installed(self) -> dict[str, str]:
        listed = self.shell(["python", "-m", "pip", "list", "--format", "json"], {}, 60)
        return {spelled(item["name"]): item["version"] for item in json.loads(listed.stdout)}

    def serve(self, arguments: list[str], log: Path, **environ: str):
        """Start ENTRYPOINT + arguments as the container would be."""
        assert self.entrypoint[0] == "python"
        return serving(
            [*self.entrypoint[1:], *arguments],
            log,
            env=self.environ | environ,
            cwd=self.folder,
            port_flag=False,
            executable=self.python,
        )


def clean_environment() -> dict[str, str]:
    """This process's environment without what belongs to its own virtual environment or sets a server up."""
    drop = ("PYTHON", "VIRTUAL_ENV", "MODELSERVER_")
    return {name: value for name, value in os.environ.items() if not name.startswith(drop) and name != "PORT"}


def ignore_patterns() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def made(framework: str, folder: Path) -> Image:
    text = (ROOT / DOCKERFILES[framework]).read_text()
    return Image(folder).build(text, ROOT, ignore_patterns())


@pytest.fixture(scope="session")
def pytorch_image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pytorch_image")
    yield made("pytorch", folder)
    shutil.rmtree(folder)  # a gigabyte that pytest would keep for three sessions


@pytest.fixture(scope="session")
def tensorflow_image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_image")
    yield made("tensorflow", folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def core(tmp_path_factory):
    """`pip install .` and nothing else, from the files that the images get."""
    folder = tmp_path_factory.mktemp("core")
    text = (ROOT / DOCKERFILES["pytorch"]).read_text()
    copies = "\n".join(f"COPY {rest}" for word, rest in instructions(text) if word == "COPY")
    dockerfile = f"FROM python\nWORKDIR /src\n{copies}\nRUN pip install .\nWORKDIR /app\n"
    yield Image(folder).build(dockerfile, ROOT, ignore_patterns())
    shutil.rmtree(folder)


@pytest.fixture(params=["pytorch", "tensorflow"])
def framework(request):
    return request.param


@pytest.fixture
def image(request, framework):
    return request.getfixturevalue(f"{framework}_image")


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """The packed model of an iris example, trained once."""
    trained: dict[str, Path] = {}

    def archive(framework: str) -> Path:
        if framework not in trained:
            folder = tmp_path_factory.mktemp(f"iris_{framework}")
            example = ROOT / "examples" / f"iris_{framework}"
            subprocess.run([sys.executable, "train.py", "--output", str(folder)], cwd=example, check=True)
            (trained[framework],) = [*folder.glob("*.tgz"), *folder.glob("*.tar.gz")]
        return trained[framework]

    return archive


@pytest.fixture
def bound_port():
    """A port on which nobody listens, nor can as long as the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield str(held.getsockname()[1])


class TestImage:
    def test_entrypoint_serves_the_packed_model(self, image, framework, archives, tmp_path):
        # As /mnt/models is after KServe's storage initializer, or with -v: a folder that holds the archive.
        mounted = tmp_path / "models"
        mounted.mkdir()
        shutil.copy(archives(framework), mounted)
        arguments = ["--model_dir", str(mounted), "--model_name", "iris"]
        with image.serve(arguments, tmp_path / "log", PORT="0") as server:
            server.wait_ready("iris")
            answer = server.predict(FLOWERS, "iris")
            assert answer.status == 200, answer.body
            assert np.argmax(answer.json()["predictions"], axis=1).tolist() == [0, 1, 2]

            assert image.health(PORT=str(server.port)).returncode == 0
            assert server.stop() == 0

    def test_healthcheck_is_unhealthy_without_a_server(self, image, bound_port):
        checked = image.health(PORT=bound_port)
        assert checked.returncode == 1
        assert "ConnectionRefusedError" in checked.stderr

    def test_healthcheck_speaks_https_where_the_server_does(self, image, framework, archives, tmp_path):
        pair = certificates.make(tmp_path)
        told = {"MODELSERVER_SSL_CERTFILE": str(pair.certfile), "MODELSERVER_SSL_KEYFILE": str(pair.keyfile)}
        told["MODELSERVER_API_KEY"] = "a-key"  # which the check has no need of
        with image.serve([str(archives(framework))], tmp_path / "log", PORT="0", **told) as server:
            port = str(server.port)
            wait_until(lambda: "Try: curl -k https://" in server.text(), 120)
            assert image.health(PORT=port, **told).returncode == 0
            assert image.health(PORT=port).returncode == 1  # by plain HTTP: 400
            assert server.stop() == 0

    def test_healthcheck_reads_the_port_as_the_server_does(self, image, bound_port):
        with socket.create_server(("127.0.0.1", 0)) as other:
            other_port = str(other.getsockname()[1])
            checked = image.health(PORT=other_port, MODELSERVER_HTTP_PORT=bound_port)
        assert "ConnectionRefusedError" in checked.stderr  # the stronger name's port, not the other

    def test_has_the_pinned_framework_and_not_the_other(self, image, framework):
        installed = image.installed()
        pins = constraints()
        mine, other = ("torch", "tensorflow-cpu") if framework == "pytorch" else ("tensorflow-cpu", "torch")
        assert installed[mine].partition("+")[0] == pins[mine]
        assert other not in installed
        extra = "torch" if framework == "pytorch" else "tensorflow"
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        needed = [*project["dependencies"], *extras[extra], *extras["fast"]]
        needed = [line for line in needed if "Darwin" not in line or "!=" in line]
        assert {spelled(re.match(r"[\w-]+", line)[0]) for line in needed} <= installed.keys()
        assert "modelserver" in installed

    def test_has_the_versions_that_the_tests_run_with(self, image):
        pins = constraints()
        differing = {
            name: version
            for name, version in image.installed().items()
            if name in pins and version.partition("+")[0] != pins[name]
        }
        assert not differing

    def test_has_no_test_tools(self, image):
        assert not {"pytest", "ruff", "mypy", "hypothesis", "scikit-learn"} & image.installed().keys()

    def test_imports_the_installed_package_and_not_its_source(self, image):
        where = image.shell(["python", "-c", "import modelserver; print(modelserver.__file__)"], {}, 60)
        assert "site-packages" in where.stdout, where.stderr


class TestImageOfAUser:
    """`FROM modelserver-pytorch`, `COPY model.py ./`, `ENTRYPOINT ["python","-m","model"]`, port by PORT."""

    def test_serves(self, pytorch_image, tmp_path):
        context = tmp_path / "context"
        context.mkdir()
        (context / "model.py").write_text(MODEL_PY)
        users = Image(pytorch_image.root, dict(pytorch_image.environ), workdir=pytorch_image.workdir).build(
            USERS_DOCKERFILE, context, []
        )
        with users.serve([], tmp_path / "log", PORT="0") as server:
            server.wait_ready("custom-model")
            answer = server.predict({"instances": [[1, 2], [3, 4]]}, "custom-model")
            assert answer.json() == {"predictions": [[2, 4], [6, 8]]}
            assert pytorch_image.health(PORT=str(server.port)).returncode == 0
            assert server.stop() == 0


class TestCoreAlone:
    """`pip install .` brings no framework and needs none."""

    def test_serves_a_model(self, core, tmp_path):
        program = tmp_path / "program.py"
        program.write_text(CORE_PY)
        with serving([program], tmp_path / "log", cwd=core.folder, executable=core.python) as server:
            answer = server.wait_ready("adder").predict({"instances": [[1, 2], [3, 4]]}, "adder")
            assert answer.json() == {"predictions": [3, 7], "frameworks": []}

    def test_depends_on_four_packages(self, core):
        installed = core.installed().keys() - {"pip", "setuptools", "wheel"}
        assert installed == {"httptools", "modelserver", "numpy", "orjson", "tornado"}

    def test_says_which_framework_an_archive_needs(self, core, archives, tmp_path):
        archive = archives("pytorch")
        ended = core.shell(["python", "-m", "modelserver", str(archive), "--http_port", "0"], {}, 60)
        assert ended.returncode == 1
        assert "is a PyTorch model, and PyTorch cannot be imported" in ended.stderr


class TestText:
    """What the files say that only a container engine acts on."""

    @pytest.fixture
    def text(self, framework):
        return (ROOT / DOCKERFILES[framework]).read_text()

    @pytest.fixture
    def all_of(self, text):
        return lambda word: [rest for name, rest in instructions(text) if name == word]

    def test_base_is_slim(self, all_of):
        assert all_of("FROM") == ["python:3.11-slim"]

    def test_runs_as_uid_1000(self, text, all_of):
        # By its number: Kubernetes' runAsNonRoot cannot tell what a name stands for.
        assert all_of("USER") == ["1000"]
        assert any(step.startswith("useradd --uid 1000 ") for step in all_of("RUN"))
        words = [word for word, _ in instructions(text)]
        assert words.index("USER") > max(n for n, word in enumerate(words) if word in ("RUN", "COPY"))

    def test_entrypoint(self, framework, all_of):
        module = {"pytorch": "pytorchserver", "tensorflow": "tfserver"}[framework]
        (entrypoint,) = all_of("ENTRYPOINT")
        assert json.loads(entrypoint) == ["python", "-m", module]
        assert not all_of("CMD")  # arguments of `docker run` are the server's flags

    def test_environment(self, all_of):
        environ = dict(pair.split("=", 1) for rest in all_of("ENV") for pair in rest.split())
        assert environ["PIP_NO_CACHE_DIR"] == "1"
        assert environ["PYTHONUNBUFFERED"] == "1"

    def test_names_the_model_as_tensorflow_servings_image_does(self, framework, all_of):
        environ = dict(pair.split("=", 1) for rest in all_of("ENV") for pair in rest.split())
        told = {name: value for name, value in environ.items() if name.startswith("MODEL_")}
        expected = {"MODEL_NAME": "model", "MODEL_BASE_PATH": "/models"} if framework == "tensorflow" else {}
        assert told == expected

    def test_mirror_is_an_argument_and_empty(self, all_of):
        assert 'PIP_INDEX_URL=""' in all_of("ARG")

    def test_names_no_registry(self, text):
        assert "://" not in re.sub(r"f'http://localhost", "", text)

    def test_pins_are_those_of_the_tests(self, framework, all_of):
        name, package = {
            "pytorch": ("TORCH_VERSION", "torch"),
            "tensorflow": ("TENSORFLOW_VERSION", "tensorflow-cpu"),
        }[framework]
        assert f"{name}={constraints()[package]}" in all_of("ARG")

    def test_program_folder_is_not_the_source_folder(self, all_of):
        # A folder `modelserver` beside the user's model.py would be imported instead of the installed one.
        source, program = all_of("WORKDIR")
        assert not program.startswith(source)

    def test_only_what_the_wheel_needs_is_copied(self, all_of):
        copied = {source for rest in all_of("COPY") for source in rest.split()[:-1]}
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
        needed = {"pyproject.toml", "constraints.txt", project["project"]["readme"]}
        needed |= {*project["project"]["license-files"], *(package.split("/")[0] for package in packages)}
        assert copied == needed


def test_dockerignore_lets_only_the_wheels_files_through():
    patterns = ignore_patterns()
    for name in ("pyproject.toml", "modelserver/cli.py", "servers/tfserver/__init__.py", "LICENSE"):
        assert not ignored(name, patterns), name
    for name in (
        ".git/config",
        ".venv/bin/python",
        "tests/harness.py",
        "examples/iris_pytorch/iris.tgz",
        "modelserver/__pycache__/cli.pyc",
        "servers/tfserver/__pycache__/x.pyc",
        "secrets.env",
    ):
        assert ignored(name, patterns), name


def constraints() -> dict[str, str]:
    """The project's pins."""
    lines = (ROOT / "constraints.txt").read_text().split()
    return {spelled(name): version for name, _, version in (line.partition("==") for line in lines)}


def spelled(name: str) -> str:
    """A package's name as pip compares it."""
    return name.lower().replace("_", "-")

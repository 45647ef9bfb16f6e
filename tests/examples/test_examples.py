"""Every example is started as its README says, and its request answered with its response.

One class for each folder of `examples/`; what all of them must do is in `ExampleChecks`. The `curl` commands
in a README are run too, and their output compared with what stands below them.
"""

import base64
import contextlib
import hashlib
import http.client
import io
import json
import re
import runpy
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pages
import pytest
import torch
from harness import wait_until
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class ExampleChecks:
    """What holds for every example."""

    name: str
    """Folder under `examples/`."""
    model: str
    """Name in the URL."""
    tolerance: float
    """How far a number may be from the one in response.json()."""
    archive: str | None = None
    """For an example that serves an archive: the fixture that makes it, or "made by serve.py"."""

    @staticmethod
    def prepare(torch_home):
        """Put into the folder that is TORCH_HOME what the example shall find there."""

    def test_answers_its_request(self, server):
        answer = server.post(f"/v1/models/{self.model}:predict", self.file("request.json"))
        assert answer.status == 200, answer.body
        assert answer.headers["content-type"] == "application/json"
        pages.assert_close(answer.json(), self.expected("response.json"), self.tolerance)

    def test_answers_curl_dash_d(self, server):
        # curl -d @request.json(): line ends removed, and no word of JSON in the Content-Type.
        body = self.file("request.json").replace(b"\n", b"").replace(b"\r", b"")
        answer = server.post(f"/v1/models/{self.model}:predict", body, "application/x-www-form-urlencoded")
        assert answer.status == 200, answer.body
        pages.assert_close(answer.json(), self.expected("response.json"), self.tolerance)

    def test_is_listed_and_ready(self, server):
        assert server.request("GET", "/v1/models").json() == {"models": [self.model]}
        status = server.request("GET", f"/v1/models/{self.model}").json()
        assert (status["name"], status["ready"]) == (self.model, True)
        assert [version["state"] for version in status["model_version_status"]] == ["AVAILABLE"]

    def test_explains(self, server):
        answer = server.post(f"/v1/models/{self.model}:explain", self.file("request.json"))
        if (EXAMPLES / self.name / "explain_response.json").exists():
            assert answer.status == 200, answer.body
            pages.assert_close(answer.json(), self.expected("explain_response.json"), self.tolerance)
        else:
            assert answer.status == 501, answer.body

    def test_curl_lines_of_the_readme(self, server):
        commands = [c for c in console_commands(self.name) if c.words[0] == "curl"]
        assert commands, "README.md shows no curl command in a ```console block"
        for command in commands:
            curl = pages.Curl.of(command.words, EXAMPLES / self.name)
            answer = server.request(curl.method, curl.path, curl.body, headers=curl.headers)
            pages.assert_answer(
                command.output, curl, answer.status, answer.headers, answer.body, self.tolerance
            )

    def test_python_lines_of_the_readme_name_files_that_exist(self):
        scripts = [c.words[1] for c in console_commands(self.name) if c.words[0] == "python"]
        assert "serve.py" in scripts
        for script in scripts:
            assert script.startswith("-") or (EXAMPLES / self.name / script).is_file()

    def file(self, name):
        return (EXAMPLES / self.name / name).read_bytes()

    def expected(self, name):
        return json.loads(self.file(name))


class TestIrisPytorch(ExampleChecks):
    name = "iris_pytorch"
    model = "iris"
    tolerance = 0.02  # a training: the last digits depend on the processor
    archive = "made by serve.py"

    def test_answers_with_probabilities(self, server):
        answer = server.post("/v1/models/iris:predict", self.file("request.json"))
        assert np.sum(answer.json()["predictions"], axis=1) == pytest.approx([1, 1], abs=1e-5)

    def test_knows_one_flower_of_each_kind(self, server):
        rows = [[5.1, 3.5, 1.4, 0.2], [5.9, 3.0, 4.2, 1.5], [6.5, 3.0, 5.8, 2.2]]
        answer = server.post("/v1/models/iris:predict", {"instances": rows})
        assert np.argmax(answer.json()["predictions"], axis=1).tolist() == [0, 1, 2]


class TestIrisTensorflow(TestIrisPytorch):
    name = "iris_tensorflow"
    archive = "trained_tensorflow"


class TestImageClassifier(ExampleChecks):
    name = "image_classifier"
    model = "image-classifier"
    tolerance = 0.02  # JPEG decoders differ by a shade
    url = "/v1/models/image-classifier:predict"

    def test_names_the_cat_and_the_coffee(self, server):
        answer = server.post(self.url, self.file("request.json"))
        best = [photo[0]["label"] for photo in answer.json()["predictions"]]
        assert best == ["Egyptian cat", "espresso"]

    def test_takes_a_photo_as_the_body(self, server):
        photo = base64.b64decode(self.expected("request.json")["instances"][1]["image"]["b64"])
        answer = server.post(self.url, photo, "image/jpeg")
        assert answer.status == 200, answer.body
        pages.assert_close(
            answer.json()["predictions"], self.expected("response.json")["predictions"][1:], 0.02
        )

    def test_takes_other_formats_and_modes(self, server):
        images = [Image.new("L", (30, 50)), Image.new("RGBA", (300, 20)), Image.new("P", (1, 1))]
        answer = server.post(self.url, {"instances": [as_instance(png(image)) for image in images]})
        assert answer.status == 200, answer.body
        assert [len(photo) for photo in answer.json()["predictions"]] == [5, 5, 5]

    @pytest.mark.parametrize(
        ("instance", "text"),
        [
            ({"image": {"b64": "%%%"}}, "not valid base64"),
            ({"image": {"b64": "abc"}}, "not valid base64"),
            ({"image": {"b64": 7}}, "not valid base64"),
            ({"image": {"b64": "Schrödinger"}}, "not valid base64"),
            ({"image": {"b64": ""}}, "0 bytes that are not an image"),
            ({"image": {"b64": base64.b64encode(b"no image").decode()}}, "8 bytes that are not an image"),
            ({"image": "abcd"}, 'expected {"image": {"b64": "..."}}'),
            ({"picture": {}}, 'expected {"image": {"b64": "..."}}'),
            ([1, 2, 3], 'expected {"image": {"b64": "..."}}'),
            (None, 'expected {"image": {"b64": "..."}}'),
        ],
    )
    def test_says_which_instance_is_wrong(self, server, instance, text):
        good = self.expected("request.json")["instances"][0]
        answer = server.post(self.url, {"instances": [good, instance]})
        assert answer.status == 400, answer.body
        assert answer.json()["error"].startswith('"instances"[1]: ')
        assert text in answer.json()["error"]

    def test_refuses_half_a_photo(self, server):
        photo = base64.b64decode(self.expected("request.json")["instances"][0]["image"]["b64"])
        answer = server.post(self.url, {"instances": [as_instance(photo[: len(photo) // 2])]})
        assert answer.status == 400, answer.body
        assert answer.json()["error"].startswith('"instances"[0]: the image cannot be read: ')

    def test_refuses_a_small_file_that_holds_a_huge_picture(self, server):
        bomb = png(Image.new("1", (10_000, 6_000)))
        assert len(bomb) < 100_000
        answer = server.post(self.url, {"instances": [as_instance(bomb)]})
        assert answer.status == 400, answer.body
        assert "60000000 pixels" in answer.json()["error"]

    @pytest.mark.parametrize("body", [{}, {"instances": []}, {"instances": {}}, {"instances": None}, [1]])
    def test_refuses_a_request_without_instances(self, server, body):
        answer = server.post(self.url, body)
        assert answer.status == 400, answer.body
        assert answer.json()["error"]

    def test_labels_are_those_of_torchvision(self):
        (folder,) = find_spec("torchvision").submodule_search_locations
        names = runpy.run_path(str(Path(folder, "models", "_meta.py")))["_IMAGENET_CATEGORIES"]
        assert self.file("labels.txt").decode().splitlines() == names

    def test_make_request(self, tmp_path, capsys, monkeypatch):
        photo = tmp_path / "photo.png"
        Image.new("RGB", (600, 400), "red").save(photo)
        script = EXAMPLES / self.name / "make_request.py"
        monkeypatch.setattr("sys.argv", [str(script), str(photo)])
        runpy.run_path(str(script), run_name="__main__")
        (instance,) = json.loads(capsys.readouterr().out)["instances"]
        with Image.open(io.BytesIO(base64.b64decode(instance["image"]["b64"]))) as made:
            assert (made.format, made.size) == ("JPEG", (280, 187))


class TestCustomModel(ExampleChecks):
    name = "custom_model"
    model = "wine"
    tolerance = 1e-9
    url = "/v1/models/wine:predict"

    def test_passes_a_header_on(self, server):
        answer = server.post(self.url, self.file("request.json"), X_Tasting="of the test")
        assert answer.headers["x-tasting"] == "of the test"

    def test_a_request_without_that_header_is_answered_too(self, server):
        assert server.post(self.url, self.file("request.json")).headers["x-tasting"] == "unnamed"

    def test_explanation_adds_up(self, server):
        answer = server.post("/v1/models/wine:explain", self.file("request.json"))
        for explanation in answer.json()["explanations"]:
            total = explanation["prior"] + sum(explanation["contributions"].values())
            assert explanation["log_odds"] == pytest.approx(total)

    def test_is_right_about_wines_it_was_not_fitted_to(self, server):
        numbers = list(range(1, 178, 2))
        answer = server.post(self.url, {"instances": [{"wine": number} for number in numbers]})
        best = [max(row, key=row.get) for row in answer.json()["predictions"]]
        truth = [f"grower {0 if number < 59 else 1 if number < 130 else 2}" for number in numbers]
        assert np.mean(np.array(best) == truth) > 0.9

    @pytest.mark.parametrize(
        ("instance", "text"),
        [
            ({"wine": 178}, "there is no wine 178, only 0 to 177"),
            ({"wine": -1}, "there is no wine -1, only 0 to 177"),
            ({"alcohol": 13.0}, "missing malic_acid"),
            ([13.0], 'expected {"wine": NUMBER}'),
            ("red", 'expected {"wine": NUMBER}'),
        ],
    )
    def test_says_which_instance_is_wrong(self, server, instance, text):
        answer = server.post(self.url, {"instances": [{"wine": 1}, instance]})
        assert answer.status == 400, answer.body
        assert answer.json()["error"].startswith('"instances"[1]: ')
        assert text in answer.json()["error"]

    def test_refuses_a_measurement_that_is_not_a_number(self, server):
        wine = self.expected("request.json")["instances"][1]
        answer = server.post(self.url, {"instances": [wine | {"ash": "much"}]})
        assert answer.status == 400, answer.body
        assert answer.json()["error"].startswith('"instances"[0]: a measurement is not a number')


class TestStreaming(ExampleChecks):
    name = "streaming"
    model = "storyteller"
    tolerance = 0
    path = "/v1/models/storyteller:predict"

    def test_words_come_one_by_one(self, server):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as client:
            client.request("POST", self.path, '{"words": 5, "seed": 10, "stream": true}')
            response = client.getresponse()
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            words = [response.read1() for _ in range(5)]  # the server has not joined them
            assert response.read() == b""
        assert words == [b"Alice", b" started", b" to", b" her", b" feel"]

    def test_the_story_ends_when_nobody_listens(self, server):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as client:
            client.request("POST", self.path, '{"words": 999, "stream": true}')
            assert client.getresponse().read1() == b"Alice"
        told = wait_until(lambda: re.search(r"(\d+) of 999 words told", server.text()))
        assert int(told[1]) < 999

    def test_refuses_what_is_no_request(self, server):
        for wrong in ({"words": 0}, {"words": "many"}, {"start": "Zeus"}, {"start": ["a"]}):
            assert server.post(self.path, {**wrong, "stream": True}).status == 400


class TestAlexnet(ExampleChecks):
    name = "alexnet"
    model = "custom-model"
    tolerance = 1e-4

    def test_script_is_the_specification_s_but_for_the_import(self):
        script = self.file("model.py")
        assert script.startswith(b"import modelserver as kserve\n")
        original = script.replace(b"import modelserver as kserve\n", b"import kserve\n", 1)
        assert hashlib.sha256(original).hexdigest() == (
            "243ccbdeea2eb8aa3300158735a9fca5bb9f91768b74c08fc16194767c82f976"
        )

    def test_says_that_the_weights_are_random(self, server):
        assert "weights: random, because " in server.text()


class TestAlexnetWithWeightsFile:
    """The file that torchvision would have downloaded is there: then the script loads it."""

    name = "alexnet"
    model = "custom-model"
    archive = None

    @staticmethod
    def prepare(torch_home):
        # All zero but the last bias, so the network answers that bias. A zero that is expanded to a layer's
        # shape is saved as one number: a file of kilobytes instead of 244 MB.
        shapes = {
            "features.0": (64, 3, 11, 11),
            "features.3": (192, 64, 5, 5),
            "features.6": (384, 192, 3, 3),
            "features.8": (256, 384, 3, 3),
            "features.10": (256, 256, 3, 3),
            "classifier.1": (4096, 9216),
            "classifier.4": (4096, 4096),
            "classifier.6": (1000, 4096),
        }
        weights = {f"{layer}.weight": torch.zeros(()).expand(shape) for layer, shape in shapes.items()}
        weights |= {f"{layer}.bias": torch.zeros(()).expand(shape[0]) for layer, shape in shapes.items()}
        weights["classifier.6.bias"] = torch.arange(1000.0)
        file = torch_home / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
        file.parent.mkdir(parents=True)
        torch.save(weights, file)

    def test_answers_with_those_weights(self, server):
        request = (EXAMPLES / self.name / "request.json").read_bytes()
        answer = server.post("/v1/models/custom-model:predict", request)
        assert answer.json() == {"predictions": [[999, 998, 997, 996, 995]]}
        assert "weights: random" not in server.text()


def test_every_folder_is_tested():
    folders = {path.name for path in EXAMPLES.iterdir() if (path / "serve.py").is_file()}
    assert folders == {checks.name for checks in all_checks(ExampleChecks)}


@pytest.mark.parametrize(
    "file", ["serve.py", "request.json", "response.json", "README.md", "requirements.txt"]
)
def test_every_folder_is_complete(file):
    without = [c.name for c in all_checks(ExampleChecks) if not (EXAMPLES / c.name / file).is_file()]
    assert without == []


def test_requirements_are_the_versions_tested_here():
    for checks in all_checks(ExampleChecks):
        for line in (EXAMPLES / checks.name / "requirements.txt").read_text().splitlines():
            package, _, pinned = line.partition("==")
            assert version(package).partition("+")[0] == pinned, f"{checks.name}: {line}"


def test_overview_links_every_folder():
    overview = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for checks in all_checks(ExampleChecks):
        assert f"]({checks.name}/)" in overview


def all_checks(base):
    for checks in base.__subclasses__():
        yield checks
        yield from all_checks(checks)


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def as_instance(data):
    return {"image": {"b64": base64.b64encode(data).decode()}}


def console_commands(name):
    page = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    return [c for block in pages.blocks(page) if block.language == "console" for c in pages.commands(block)]

"""From a path to a model: what is served, what is refused and what the refusal says."""

import argparse
import tarfile
from pathlib import Path

import pytest

from modelserver import Model, ModelLoadError, Predictor
from modelserver.packaged import PackagedModel, build, installed_predictors
from modelserver.repository.archives import UnpackLimits
from modelserver.repository.workspace import Workspace


class Served(Model):
    def __init__(self, name, folder):
        super().__init__(name)
        self.files = sorted(path.name for path in folder.iterdir())


def make(name, folder, options):
    return Served(name, folder)


def fails(name, folder, options):
    raise ModuleNotFoundError("No module named 'frame'", name="frame")


KNOWS = Predictor("Frame", "a file weights.frame", lambda folder: (folder / "weights.frame").exists(), make)
BROKEN = Predictor("Frame", "anything", lambda folder: True, fails)


@pytest.fixture
def folder(tmp_path):
    model = tmp_path / "flowers"
    model.mkdir()
    (model / "weights.frame").write_text("1")
    return model


def built(path, tmp_path, predictors=(KNOWS,)):
    packaged = PackagedModel.parse(str(path))
    with pytest.MonkeyPatch.context() as patch, Workspace() as workspace:
        patch.setenv("TMPDIR", str(tmp_path))
        return build(packaged, predictors, argparse.Namespace(), UnpackLimits(), workspace)


def packed(folder, archive, top=""):
    with tarfile.open(archive, "w:gz") as tar:
        for path in folder.iterdir():
            tar.add(path, f"{top}{path.name}")
    return archive


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("iris.tar.gz", "iris.tar.gz", "iris"),
        ("iris.tgz", "flowers=iris.tgz", "flowers"),
        ("0001.tar.gz", "0001.tar.gz", "0001"),
        ("resnet.v1.5.zip", "resnet.v1.5.zip", "resnet.v1.5"),
        ("plain", "plain", "plain"),
        ("a=b/c", "./a=b/c", "c"),
    ],
)
def test_names(tmp_path, monkeypatch, file, text, name):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    assert PackagedModel.parse(text).name == name


def test_a_file_url_is_a_path_and_other_schemes_are_refused(folder):
    assert PackagedModel.parse(f"m=file://{folder}").path == folder
    with pytest.raises(ModelLoadError, match=r"s3://b/m: only local paths can be served, not s3://"):
        PackagedModel.parse("s3://b/m")


def test_what_is_not_there_is_named():
    with pytest.raises(ModelLoadError, match=r"^nowhere\.tgz: no such file or folder\.$"):
        PackagedModel.parse("nowhere.tgz")


def test_a_folder_is_used_in_place(folder, tmp_path):
    model = built(folder, tmp_path)
    assert (model.name, model.files, model.ready) == ("flowers", ["weights.frame"], False)


@pytest.mark.parametrize("top", ["", "flowers/"])
@pytest.mark.parametrize("name", ["m.tgz", "0001.tar.gz", "no-suffix", "weights.frame"])
def test_an_archive_is_unpacked_whatever_it_is_called(folder, tmp_path, top, name):
    archive = packed(folder, tmp_path / name, top)
    assert built(archive, tmp_path).files == ["weights.frame"]


def test_a_redundant_folder_on_top_is_looked_into(folder, tmp_path):
    outer = tmp_path / "outer"
    outer.mkdir()
    folder.rename(outer / "flowers")
    assert built(outer, tmp_path).files == ["weights.frame"]


def test_a_model_file_by_itself(folder, tmp_path):
    assert built(folder / "weights.frame", tmp_path).files == ["weights.frame"]


def test_a_folder_with_nothing_but_an_archive_as_a_storage_initializer_leaves_it(folder, tmp_path):
    mount = tmp_path / "mount"
    mount.mkdir()
    packed(folder, mount / "model.tgz")
    assert built(mount, tmp_path).files == ["weights.frame"]


def test_a_folder_that_nobody_knows_is_described(tmp_path):
    folder = tmp_path / "odd"
    (folder / "sub").mkdir(parents=True)
    (folder / "readme.txt").touch()
    with pytest.raises(ModelLoadError) as caught:
        built(folder, tmp_path)
    assert str(caught.value) == ("odd holds readme.txt, sub/. Expected one of: Frame: a file weights.frame.")


def test_a_file_that_is_no_archive_is_told_how_to_become_one(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    with pytest.raises(ModelLoadError, match=r"notes\.txt .* starts with b'hello'; .*modelserver pack"):
        built(file, tmp_path)


def test_a_framework_that_is_not_installed_is_named(folder, tmp_path):
    with pytest.raises(ModelLoadError, match=r"flowers is a Frame model, .*No module named 'frame'"):
        built(folder, tmp_path, [BROKEN])


def test_the_built_in_predictors_are_installed():
    assert {p.framework for p in installed_predictors().values()} >= {"PyTorch", "TensorFlow"}


def test_predictors_say_what_they_expect(tmp_path):
    for predictor in installed_predictors().values():
        assert predictor.expects
        assert predictor.detect(Path(tmp_path)) is False

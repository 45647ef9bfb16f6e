"""Version folders: which is served, and what is said when none can be."""

import logging
from pathlib import Path

import pytest

from modelserver import ModelLoadError
from tfserver import predictor
from tfserver.layout import find_saved_model


def make(root: Path, *paths: str) -> Path:
    """Empty files, or folders for paths that end in a slash."""
    for path in paths:
        if path.endswith("/"):
            (root / path).mkdir(parents=True)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
    return root


@pytest.mark.parametrize(
    ("paths", "served", "version"),
    [
        (["saved_model.pb"], ".", None),
        (["saved_model.pbtxt"], ".", None),
        (["0001/saved_model.pb"], "0001", 1),
        (["1/saved_model.pb", "10/saved_model.pb", "9/saved_model.pb"], "10", 10),
        (["00000123/saved_model.pb", "v999/saved_model.pb", "notes.txt"], "00000123", 123),
        (["1/saved_model.pb", "0001/saved_model.pb"], "1", 1),
        (["saved_model.pb", "variables/", "assets/"], ".", None),
        (["saved_model.pb", "1/"], ".", None),
        (["0/saved_model.pb"], "0", 0),
    ],
)
def test_served(tmp_path: Path, paths: list[str], served: str, version: int | None) -> None:
    make(tmp_path, *paths)
    assert predictor.detect(tmp_path)
    assert find_saved_model(tmp_path) == (tmp_path / served, version)


def test_a_higher_version_without_graph_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "1/saved_model.pb", "2/variables/")
    with caplog.at_level(logging.WARNING):
        assert find_saved_model(tmp_path) == (tmp_path / "1", 1)
    assert "version folder 2/ holds no saved_model.pb" in caplog.text


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["v1/saved_model.pb"], ["Found: v1/.", '"v1" is not a whole number', "mv v1 1"]),
        (["0.1/saved_model.pb"], ['"0.1" is not a whole number', "mv 0.1 1"]),
        (["-1/saved_model.pb"], ['"-1" is not a whole number']),
        (["1/", "v2/saved_model.pb"], ["mv v2 2"]),
        (["0001/"], ["0001/ has no saved_model.pb: it holds nothing", "cp -r SAVED_MODEL/. 0001/"]),
        (["0001/variables/", "0001/model.keras"], ["it holds model.keras, variables/"]),
        (["0001/iris/saved_model.pb"], ["mv 0001/iris/* 0001/"]),
    ],
)
def test_meant_for_tensorflow_but_wrong(tmp_path: Path, paths: list[str], words: list[str]) -> None:
    make(tmp_path, *paths)
    assert predictor.detect(tmp_path)
    with pytest.raises(ModelLoadError) as caught:
        find_saved_model(tmp_path)
    for word in ["No SavedModel to serve. Found: ", "Wanted: 0001/saved_model.pb", "Fix", *words]:
        assert word in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    "paths", [[], ["model.py", "model.pt"], ["1/model.py", "1/model.pt"], ["a/b/saved_model.pb"]]
)
def test_not_tensorflows(tmp_path: Path, paths: list[str]) -> None:
    make(tmp_path, *paths)
    assert not predictor.detect(tmp_path)
    with pytest.raises(ModelLoadError, match="No SavedModel to serve"):
        find_saved_model(tmp_path)


def test_one_folder_too_high(tmp_path: Path) -> None:
    make(tmp_path, "iris/0001/saved_model.pb")
    with pytest.raises(ModelLoadError, match=rf"Fix: --model_dir {tmp_path.name}/iris"):
        find_saved_model(tmp_path)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="does not exist"):
        find_saved_model(tmp_path / "absent")


def test_a_long_listing_is_cut(tmp_path: Path) -> None:
    make(tmp_path, *(f"file{n:02}" for n in range(20)))
    with pytest.raises(ModelLoadError, match=r"file07 and 12 more\."):
        find_saved_model(tmp_path)

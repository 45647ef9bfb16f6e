"""What is computed before a TensorFlow model is ready."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from modelserver import ModelLoadError
from tfserver.served import Served


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests that were answered."""
    seen: list[Any] = []
    answer = Served.answer

    def recording(self: Served, payload: Any) -> Any:
        seen.append(payload)
        return answer(self, payload)

    monkeypatch.setattr(Served, "answer", recording)
    return seen


def test_several_numbers_of_rows(load: Any, keras_export: Path, answered: list[Any]) -> None:
    load(keras_export)
    assert [len(body["instances"]) for body in answered] == [1, 1, 2, 3, 8, 64, 256]


def test_signatures_with_side_effects_are_left_alone(
    load: Any, counter_export: Path, answered: list[Any]
) -> None:
    load(counter_export)
    assert answered == []


@pytest.mark.parametrize("place", ["0001/warmup.json", "warmup.json"])
def test_the_requests_beside_the_model(
    load: Any, keras_export: Path, tmp_path: Path, answered: list[Any], place: str
) -> None:
    shutil.copytree(keras_export, tmp_path / "m")
    body = {"inputs": [[1.0, 2.0, 3.0, 4.0]]}
    (tmp_path / "m" / place).write_text(json.dumps([body]))
    load(tmp_path / "m")
    assert answered.count(body) == 3


def test_those_of_the_version_come_first(
    load: Any, keras_export: Path, tmp_path: Path, answered: list[Any]
) -> None:
    shutil.copytree(keras_export, tmp_path / "m")
    mine, other = {"inputs": [[1.0, 2.0, 3.0, 4.0]]}, {"inputs": [[0.0, 2.0, 3.0, 4.0]]}
    (tmp_path / "m" / "0001" / "warmup.json").write_text(json.dumps(mine))
    (tmp_path / "m" / "warmup.json").write_text(json.dumps(other))
    load(tmp_path / "m")
    assert mine in answered
    assert other not in answered


def test_one_that_fails_keeps_the_model_from_loading(load: Any, keras_export: Path, tmp_path: Path) -> None:
    shutil.copytree(keras_export, tmp_path / "m")
    (tmp_path / "m" / "warmup.json").write_text('{"instances": ["text"]}')
    with pytest.raises(ModelLoadError, match=r"^Request 1 of 1 in warmup\.json fails: InvalidInput: "):
        load(tmp_path / "m")


def test_it_may_count_where_nobody_else_would(
    load: Any, ask: Any, counter_export: Path, tmp_path: Path, plain: Any
) -> None:
    """The user has asked for the call; and it is the example of a model that has none."""
    shutil.copytree(counter_export, tmp_path / "m")
    body = {"instances": [0]}
    (tmp_path / "m" / "warmup.json").write_text(json.dumps(body))
    model = load(tmp_path / "m")
    assert model.example_request() == body
    assert plain(ask(model, body)) == {"predictions": [4]}

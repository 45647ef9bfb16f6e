"""``warm_up``: the requests beside a model are answered before it is ready."""

import json

import pytest

from modelserver import ModelLoadError, predictor, warm_up


@pytest.fixture
def write(tmp_path):
    def write(content):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "warmup.json").write_text(text)
        return tmp_path

    return write


def test_without_the_file_nothing_happens(tmp_path):
    assert warm_up(tmp_path, pytest.fail) == []


def test_one_request_is_answered_three_times(write):
    seen = []
    body = {"instances": [[1.0, 2.0]], "signature_name": "s"}
    assert warm_up(write(body), seen.append) == [body]
    assert seen == [body] * 3


def test_a_list_in_its_order(write):
    seen = []
    bodies = [{"instances": [1]}, {"instances": [2]}]
    assert warm_up(write(bodies), seen.append) == bodies
    assert seen == [bodies[0]] * 3 + [bodies[1]] * 3


def test_slow_requests_are_answered_once_each(write, monkeypatch):
    monkeypatch.setattr(predictor, "_REPEAT_FOR_S", -1.0)
    seen = []
    warm_up(write([{"instances": [1]}, {"instances": [2]}]), seen.append)
    assert len(seen) == 2


@pytest.mark.parametrize("failure", [ValueError("wrong width"), SystemExit("wrong width")])
def test_a_request_that_fails_is_named_with_its_error(write, failure):
    def answer(body):
        if body["instances"] == [2]:
            raise failure

    with pytest.raises(ModelLoadError) as caught:
        warm_up(write([{"instances": [1]}, {"instances": [2]}]), answer)
    name = type(failure).__name__
    assert str(caught.value).startswith(f"Request 2 of 2 in warmup.json fails: {name}: wrong width.")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "warmup.json cannot be read as JSON: "),
        ("7", "warmup.json holds something else than requests."),
        ('[{"instances": [1]}, [1]]', "warmup.json holds something else than requests."),
        (" " * (10 * 1024 * 1024 + 1), "warmup.json has 10485761 bytes, expected at most 10485760."),
    ],
)
def test_a_file_that_holds_no_requests_is_refused(write, content, text):
    with pytest.raises(ModelLoadError) as caught:
        warm_up(write(content), lambda body: None)
    assert str(caught.value).startswith(text)

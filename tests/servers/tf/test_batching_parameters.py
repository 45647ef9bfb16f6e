"""``--enable_batching``: sizes of runs by TensorFlow Serving's parameters, and who shares one."""

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from harness import serving

from modelserver import BatchingParameters, InvalidInput, ModelLoadError, TensorRequest
from modelserver.execution import ModelThreads
from tfserver.batching import BatchRules
from tfserver.options import Options
from tfserver.signature import Signature, TensorSpec, dtype_named

FLOAT = dtype_named("float")
ONE = Signature("f", (TensorSpec("x", "x:0", FLOAT, (-1,)),), (TensorSpec("y", "y:0", FLOAT, (-1,)),))
TWO = Signature("g", tuple(TensorSpec(n, f"{n}:0", FLOAT, (-1,)) for n in "ab"), ONE.outputs)
SPLITTING = {"enable_large_batch_splitting": True}


class Recorded:
    """A run that doubles its first input, and what it was called with."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []

    def __call__(self, *feeds: np.ndarray) -> list[np.ndarray]:
        self.calls.append([feed.tolist() for feed in feeds])
        return [feeds[0] * 2]


class TestRules:
    @pytest.mark.parametrize(
        ("parameters", "rows", "runs"),
        [
            ({}, [1, 2, 3], [[1, 2, 3]]),
            ({"max_batch_size": 3}, [1, 2, 3], [[1, 2, 3]]),
            ({"max_batch_size": 4, "allowed_batch_sizes": (2, 4)}, [5, 6, 7], [[5, 6, 7, 5]]),
            ({"max_batch_size": 4, "allowed_batch_sizes": (2, 4)}, [5, 6], [[5, 6]]),
            ({"max_batch_size": 4, "allowed_batch_sizes": (2, 4)}, [5], [[5, 5]]),
            ({"max_batch_size": 4, "allowed_batch_sizes": (2, 4)}, [], [[]]),
            ({"max_batch_size": 2, **SPLITTING}, [1, 2, 3, 4, 5], [[1, 2], [3, 4], [5]]),
            ({"max_batch_size": 9, "max_execution_batch_size": 2, **SPLITTING}, [1, 2, 3], [[1, 2], [3]]),
            (
                {
                    "max_batch_size": 9,
                    "max_execution_batch_size": 3,
                    "allowed_batch_sizes": (2, 3),
                    **SPLITTING,
                },
                [1, 2, 3, 4],
                [[1, 2, 3], [4, 4]],
            ),
            ({"max_batch_size": 9, "max_execution_batch_size": 2}, [1, 2, 3], [[1, 2, 3]]),
        ],
    )
    def test_what_is_run_and_what_comes_back(
        self, parameters: dict[str, Any], rows: list[int], runs: list[list[int]]
    ) -> None:
        run = Recorded()
        (got,) = BatchRules(BatchingParameters(**parameters)).run(run, ONE, np.array(rows))
        assert [call[0] for call in run.calls] == runs
        assert got.tolist() == [2 * row for row in rows]

    def test_every_input_is_padded_by_its_own_first_row(self) -> None:
        run = Recorded()
        rules = BatchRules(BatchingParameters(max_batch_size=2, allowed_batch_sizes=(2,)))
        names = np.array([b"one"], dtype=object)
        (got,) = rules.run(run, TWO, np.array([[1.0, 2.0]]), names)
        assert run.calls == [[[[1.0, 2.0], [1.0, 2.0]], [b"one", b"one"]]]
        assert got.tolist() == [[2.0, 4.0]]

    @pytest.mark.parametrize(
        ("feeds", "text"),
        [
            (
                (np.arange(4), np.arange(4)),
                "Task size 4 is larger than maximum input batch size 3 (send fewer rows in one request, or "
                "raise max_batch_size)",
            ),
            (
                (np.arange(2), np.arange(3)),
                'Batching Run() input tensors must have equal 0th-dimension size ("a": [2], "b": [3])',
            ),
            (
                (np.arange(2), np.array(1)),
                'Batching Run() input tensors must have at least one dimension ("a": [2], "b": [])',
            ),
        ],
    )
    def test_what_is_refused(self, feeds: Any, text: str) -> None:
        run = Recorded()
        with pytest.raises(InvalidInput) as caught:
            BatchRules(BatchingParameters(max_batch_size=3)).run(run, TWO, *feeds)
        assert str(caught.value) == text
        assert run.calls == []

    @pytest.mark.parametrize(
        ("parameters", "text"),
        [
            ({"max_batch_size": 0}, "max_batch_size is 0, expected at least 1"),
            ({"batch_timeout_micros": -1}, "batch_timeout_micros is -1, expected at least 0"),
            ({"max_enqueued_batches": 0}, "max_enqueued_batches is 0, expected at least 1"),
            ({"num_batch_threads": -1}, "num_batch_threads is -1, expected at least 0"),
            (
                {"max_execution_batch_size": 5, "max_batch_size": 4, **SPLITTING},
                "max_execution_batch_size is 5, expected at most max_batch_size, 4",
            ),
            (
                {"allowed_batch_sizes": (4, 2, 1000)},
                r"allowed_batch_sizes are \[4, 2, 1000\], expected .* larger",
            ),
            ({"allowed_batch_sizes": (4, 4, 1000)}, "each larger than the one before"),
            ({"allowed_batch_sizes": (0, 1000)}, "numbers from 1 on"),
            (
                {"allowed_batch_sizes": (4, 8)},
                "the last of allowed_batch_sizes is 8, expected max_batch_size, 1000",
            ),
            (
                {"allowed_batch_sizes": (4, 1000), "max_execution_batch_size": 4, **SPLITTING},
                "is 1000, expected max_execution_batch_size, 4",
            ),
        ],
    )
    def test_parameters_that_do_not_fit_together(self, parameters: dict[str, Any], text: str) -> None:
        with pytest.raises(ModelLoadError, match=text):
            BatchRules(BatchingParameters(**parameters))


class Sizes(tf.Module):
    """Signatures that tell with how many rows they are run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, "x")])
    def rows(self, x: Any) -> Any:
        return {"value": x[:, 0], "rows": tf.ones_like(x[:, 0]) * tf.cast(tf.shape(x)[0], tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def total(self, x: Any) -> Any:
        return {"total": tf.reduce_sum(x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def first(self, x: Any) -> Any:
        return {"first": x[:1]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def count(self, x: Any) -> Any:
        return {"calls": x * 0 + self.calls.assign_add(tf.cast(tf.size(x), tf.float32))}

    @tf.function(input_signature=[tf.TensorSpec([2], tf.float32, "x")])
    def pair(self, x: Any) -> Any:
        return {"y": x + tf.constant([1.0, 2.0])}


@pytest.fixture(scope="module")
def sizes_export(exports: Path) -> Path:
    module, folder = Sizes(), exports / "sizes" / "1"
    names = ("total", "first", "count", "pair")
    signatures = {"serving_default": module.rows} | {name: getattr(module, name) for name in names}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder.parent


@pytest.fixture
def loaded(load: Any, sizes_export: Path) -> Any:
    def loaded(**parameters: Any) -> Any:
        return load(sizes_export, options=Options(batching=BatchingParameters(**parameters)))

    return loaded


def rows(*values: float) -> dict[str, Any]:
    return {"instances": [[value, 0.0] for value in values]}


def told(value: float, rows: float) -> dict[str, float]:
    return {"rows": rows, "value": value}


class TestModel:
    def test_a_run_has_an_allowed_size(self, loaded: Any, ask: Any, plain: Any) -> None:
        model = loaded(max_batch_size=8, allowed_batch_sizes=(3, 8))
        assert plain(ask(model, rows(7))) == {"predictions": [told(7, 3)]}
        assert plain(ask(model, rows(1, 2, 3, 4))) == {"predictions": [told(n, 8) for n in (1, 2, 3, 4)]}
        columns = {"inputs": [[5.0], [6.0]]}
        assert plain(ask(model, columns)) == {"outputs": {"rows": [3, 3], "value": [5, 6]}}

    def test_a_large_request_is_refused_or_cut(self, loaded: Any, ask: Any, plain: Any) -> None:
        model = loaded(max_batch_size=2)
        with pytest.raises(InvalidInput, match=r"^Task size 3 is larger than maximum input batch size 2 "):
            ask(model, rows(1, 2, 3))
        assert plain(ask(model, rows(1, 2))) == {"predictions": [told(1, 2), told(2, 2)]}
        model = loaded(max_batch_size=2, enable_large_batch_splitting=True)
        assert plain(ask(model, rows(1, 2, 3))) == {"predictions": [told(1, 2), told(2, 2), told(3, 1)]}

    def test_an_output_must_have_the_rows_of_the_inputs(self, loaded: Any, ask: Any, plain: Any) -> None:
        body = {"signature_name": "first", "inputs": [1.0, 2.0]}
        with pytest.raises(
            InvalidInput, match=r'(?s)^Batched output .* \(output "first" has 1 rows, the inputs have 2'
        ):
            ask(loaded(), body)

    def test_signatures_that_cannot_be_batched_are_run_as_they_are(
        self, loaded: Any, ask: Any, plain: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Padding would change the total and the count, and the pair would fail."""
        with caplog.at_level(logging.INFO):
            model = loaded(max_batch_size=4, allowed_batch_sizes=(4,), pad_variable_length_inputs=True)
        assert "no open first size: count, pair, total" in caplog.text
        assert "pad_variable_length_inputs has nothing to do" in caplog.text
        assert plain(ask(model, {"signature_name": "total", "inputs": [1.0] * 5})) == {"outputs": 5.0}
        assert plain(ask(model, {"signature_name": "count", "inputs": [0.0]})) == {"outputs": [1.0]}
        assert plain(ask(model, {"signature_name": "pair", "instances": [0.0, 0.0]})) == {
            "predictions": [1, 2]
        }

    def test_its_own_parameters(self, load: Any, sizes_export: Path, tmp_path: Path) -> None:
        common = BatchingParameters(max_batch_size=77)

        def loaded(**options: Any) -> Any:
            return load(tmp_path / "m", options=Options(**options)).max_batch_size

        shutil.copytree(sizes_export, tmp_path / "m")
        assert loaded(batching=common) == 77
        assert (
            loaded(batching=common, per_model_batching=True) == 0
        )  # as without: not all signatures are open
        (tmp_path / "m" / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: 5 }")
        assert loaded(batching=common, per_model_batching=True) == 5
        assert loaded(batching=common) == 77
        assert loaded(per_model_batching=True) == 0
        for text in ("max_batch_size { value: 5", "allowed_batch_sizes: 5"):
            (tmp_path / "m" / "1" / "batching_params.pbtxt").write_text(text)
            with pytest.raises(ModelLoadError, match=r"batching_params\.pbtxt of the version is wrong: "):
                loaded(batching=common, per_model_batching=True)


class TestSharing:
    """Requests that come at the same time, on a model thread as in the server."""

    @staticmethod
    def answers(model: Any, *bodies: Any, apart: bool = False) -> Any:
        async def together() -> Any:
            threads = ModelThreads("sizes")
            model.attach_runner(threads)
            try:
                asked = []
                for body in bodies:
                    asked.append(asyncio.ensure_future(model(body)))
                    for _ in range(5 * apart):  # turns of the loop; what waits for nobody is on its way then
                        await asyncio.sleep(0)
                return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)
            finally:
                threads.close()

        return asyncio.run(together())

    def test_a_batch_is_padded_as_a_whole(self, loaded: Any, plain: Any) -> None:
        model = loaded(max_batch_size=8, allowed_batch_sizes=(8,), batch_timeout_micros=300_000)
        answers = self.answers(model, rows(1), rows(2, 3))
        assert [plain(each) for each in answers] == [
            {"predictions": [told(1, 8)]},
            {"predictions": [told(2, 8), told(3, 8)]},
        ]

    def test_it_waits_until_it_is_full(self, loaded: Any, plain: Any) -> None:
        model = loaded(max_batch_size=3, batch_timeout_micros=600_000_000)
        answers = self.answers(model, rows(1), rows(2), rows(3), apart=True)
        assert [plain(each)["predictions"] for each in answers] == [[told(n, 3)] for n in (1, 2, 3)]

    def test_what_cannot_share_a_batch_waits_for_nobody(self, loaded: Any, plain: Any) -> None:
        model = loaded(max_batch_size=1000, batch_timeout_micros=600_000_000)
        columns = {"inputs": [[1.0]]}
        count = {"signature_name": "count", "instances": [0.0]}
        answers = [plain(each) for each in self.answers(model, columns, count, count)]
        assert answers == [
            {"outputs": {"rows": [1], "value": [1]}},
            {"predictions": [1.0]},
            {"predictions": [2.0]},
        ]

    def test_named_arrays_share_batches_too(self, loaded: Any) -> None:
        """As gRPC clients send them: with others that want the same outputs of the same signature."""

        def arrays(*values: float, **wanted: Any) -> TensorRequest:
            return TensorRequest({"x": np.array([[value, 0.0] for value in values], np.float32)}, **wanted)

        model = loaded(max_batch_size=5, batch_timeout_micros=300_000)
        requests = [arrays(1), arrays(2, 3), arrays(4, outputs=("rows",)), arrays(5, 6, outputs=("rows",))]
        requests.append(TensorRequest({"x": np.zeros(3, np.float32)}, "total"))
        answers = self.answers(model, *requests)
        assert [each for each in answers if isinstance(each, Exception)] == []
        got = [{name: array.tolist() for name, array in answer.outputs.items()} for answer in answers]
        assert got == [
            {"rows": [3], "value": [1]},
            {"rows": [3, 3], "value": [2, 3]},
            {"rows": [3]},
            {"rows": [3, 3]},
            {"total": 0},
        ]

    @pytest.mark.parametrize(("name", "runs"), [("keras_export", 1), ("functions_export", 2)])
    def test_named_arrays_without_the_flag(
        self, load: Any, name: str, runs: int, request: pytest.FixtureRequest
    ) -> None:
        """They share a call, as V1's do, where it was tried out that rows do not depend on each other."""
        model = load(request.getfixturevalue(name))
        (wanted,) = model.get_input_types()
        asked = TensorRequest({wanted["name"]: np.ones((2, 4), np.float32)})
        calls = []
        run = model._served.saved_model.run
        model._served.saved_model.run = lambda *args: calls.append(args) or run(*args)
        assert [
            next(iter(answer.outputs.values())).shape for answer in self.answers(model, asked, asked)
        ] == [(2, 3)] * 2
        assert len(calls) == runs

    def test_a_bad_request_fails_alone(self, loaded: Any, plain: Any) -> None:
        model = loaded(max_batch_size=3, batch_timeout_micros=300_000)
        too_many, good = self.answers(model, rows(1, 2, 3, 4), rows(5))
        assert isinstance(too_many, InvalidInput)
        assert plain(good) == {"predictions": [told(5, 1)]}


def test_the_command_line(sizes_export: Path, tmp_path: Path) -> None:
    parameters = tmp_path / "batching.config"
    parameters.write_text(
        "max_batch_size { value: 6 } batch_timeout_micros { value: 1000 } allowed_batch_sizes: 2 "
        "allowed_batch_sizes: 6"
    )
    arguments = ["-m", "modelserver", f"sizes={sizes_export}", "--enable_batching"]
    arguments += ["--batching_parameters_file", parameters]
    with serving(arguments, tmp_path / "log") as server:
        server.wait_ready("sizes")
        answer = server.predict(rows(4), model="sizes")
        assert answer.json() == {"predictions": [told(4, 2)]}
        refused = server.predict(rows(*range(7)), model="sizes")
        assert refused.status == 400
        assert refused.json()["error"].startswith("Task size 7 is larger than maximum input batch size 6")


def test_parameters_that_do_not_fit_are_told_before_anything_is_loaded(half_plus_two: Path) -> None:
    import argparse

    from tfserver import predictor

    options = argparse.Namespace(batching=BatchingParameters(allowed_batch_sizes=(5,)))
    with pytest.raises(ModelLoadError, match="the last of allowed_batch_sizes is 5"):
        predictor.build("m", half_plus_two, options)

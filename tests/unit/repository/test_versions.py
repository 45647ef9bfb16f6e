"""Versions of a model: which are there, which are wanted, who is asked, and what several workers say."""

import logging

import pytest

from modelserver.errors import ModelLoadError, UnknownLabel, VersionNotFound
from modelserver.model import Model
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.versions import (
    LARGEST_VERSION,
    MOST_ENDED,
    ModelFolder,
    ModelVersions,
    State,
    VersionPolicy,
    VersionStatus,
    merged,
)


def folder_of(path, **options):
    return ModelFolder("m", path, lambda folder, number: Model("m"), **options)


def make(path, *names):
    for name in names:
        (path / name).mkdir(parents=True)


def test_versions_are_folders_named_by_whole_numbers(tmp_path):
    make(tmp_path, "1", "00000123", "v1", "1.5", "-1", "²", str(LARGEST_VERSION), str(LARGEST_VERSION + 1))
    (tmp_path / "7").write_text("a file")
    found = folder_of(tmp_path).found()
    assert found == {
        1: tmp_path / "1",
        123: tmp_path / "00000123",
        LARGEST_VERSION: tmp_path / str(LARGEST_VERSION),
    }


def test_of_two_names_for_a_number_the_last_in_sort_order_counts(tmp_path):
    make(tmp_path, "1", "001", "01")
    assert folder_of(tmp_path).found() == {1: tmp_path / "1"}


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        (VersionPolicy(), {10}),
        (VersionPolicy(latest=2), {9, 10}),
        (VersionPolicy(latest=9), {1, 2, 9, 10}),
        (VersionPolicy(everything=True), {1, 2, 9, 10}),
        (VersionPolicy(specific=frozenset((1, 3))), {1}),
    ],
)
def test_a_policy_chooses(policy, chosen):
    assert policy.choose([1, 10, 2, 9]) == chosen


def test_nothing_is_chosen_of_nothing():
    assert VersionPolicy().choose([]) == set()


def test_begin_makes_the_versions_that_are_wanted(tmp_path):
    make(tmp_path, "1", "2", "3")
    versions = ModelVersions(folder_of(tmp_path, policy=VersionPolicy(latest=2)))
    versions.begin()
    assert sorted(versions.pending) == [2, 3]
    assert [model.version for model in versions.all_models()] == [2, 3]
    assert versions.front() is versions.pending[3]
    assert versions.statuses() == [VersionStatus(3, State.START), VersionStatus(2, State.START)]


def test_begin_again_keeps_what_was_made_and_makes_what_is_missing(tmp_path):
    make(tmp_path, "1")
    versions = ModelVersions(folder_of(tmp_path))
    versions.begin()
    first = versions.pending[1]
    versions.begin()
    assert versions.pending == {1: first}
    make(tmp_path, "2")
    versions.begin()
    assert sorted(versions.pending) == [2]


def test_begin_again_keeps_what_there_is_when_the_folder_is_lost(tmp_path):
    make(tmp_path / "base", "1")
    versions = ModelVersions(folder_of(tmp_path / "base"))
    versions.begin()
    (tmp_path / "base").rename(tmp_path / "away")
    versions.begin()
    assert sorted(versions.pending) == [1]


def test_a_folder_without_a_model_is_left_out_with_a_warning(tmp_path, caplog):
    make(tmp_path, "1", "2")
    (tmp_path / "1" / "model").touch()
    versions = ModelVersions(folder_of(tmp_path, holds_model=lambda path: (path / "model").exists()))
    with caplog.at_level(logging.WARNING):
        versions.begin()
    assert sorted(versions.pending) == [1]
    assert "version folder 2/ holds no model and is left out" in caplog.text


def test_nothing_to_serve_is_an_error_unless_it_may_come_later(tmp_path):
    make(tmp_path, "1")
    wanted = VersionPolicy(specific=frozenset((5, 4)))
    with pytest.raises(ModelLoadError, match=r"wanted is there\. Found: 1; wanted: only 4, 5"):
        ModelVersions(folder_of(tmp_path, policy=wanted)).begin()
    patient = ModelVersions(folder_of(tmp_path, policy=wanted, may_be_empty=True))
    patient.begin()
    assert not patient.front().ready


def test_a_version_that_cannot_be_made_ends_and_the_others_go_on(tmp_path):
    make(tmp_path, "1", "2")

    def build(path, number):
        if number == 2:
            raise ModelLoadError("no code")
        return Model("m")

    versions = ModelVersions(ModelFolder("m", tmp_path, build, VersionPolicy(latest=2)))
    versions.begin()
    assert versions.statuses() == [
        VersionStatus(2, State.END, "INTERNAL", "no code"),
        VersionStatus(1, State.START),
    ]


def test_where_the_newest_cannot_be_made_the_one_before_is(tmp_path):
    make(tmp_path, "1", "2", "3")

    def build(path, number):
        if number > 1:
            raise ImportError(f"no module {number}")
        return Model("m")

    versions = ModelVersions(ModelFolder("m", tmp_path, build))
    versions.begin()
    assert sorted(versions.pending) == [1]
    assert [status.error_message for status in versions.statuses()] == ["no module 3", "no module 2", ""]
    named = VersionPolicy(specific=frozenset((2,)))
    with pytest.raises(ImportError, match="no module 2"):
        ModelVersions(ModelFolder("m", tmp_path, build, named)).begin()


def loaded(tmp_path, *numbers, labels=None):
    make(tmp_path, *map(str, numbers))
    repository = ModelRepository()
    folder = folder_of(tmp_path, policy=VersionPolicy(everything=True), labels=labels or {})
    repository.add_folder(folder)
    for _, model in list(repository.all_models()):
        model.ready = True
        repository.versions["m"].loaded(model.version)
    repository.put_in_front("m")
    return repository


def test_requests_without_a_version_go_to_the_newest_that_is_available(tmp_path):
    repository = loaded(tmp_path, 1, 2, 10)
    assert repository.ready_model("m").version == 10
    versions = repository.versions["m"]
    versions.retire(10)
    assert versions.front().version == 2


def test_a_number_or_a_label_asks_one_version(tmp_path):
    repository = loaded(tmp_path, 1, 2, labels={"stable": 1, "next": 3})
    assert repository.version("m", 2).version == 2
    assert repository.version("m", "stable").version == 1
    with pytest.raises(VersionNotFound, match=r"Servable not found for request: Specific\(m, 3\)"):
        repository.version("m", 3)
    for label in ("next", "nobody"):
        with pytest.raises(UnknownLabel, match=f"Unrecognized servable version label: {label}"):
            repository.version("m", label)


def test_a_model_without_versions_is_version_1():
    repository = ModelRepository()
    model = Model("plain")
    model.ready = True
    repository.update(model)
    assert repository.version("plain", 1) is model
    with pytest.raises(VersionNotFound, match=r"Specific\(plain, 2\)"):
        repository.version("plain", 2)
    with pytest.raises(VersionNotFound, match=r"Specific\(nobody, 1\)"):
        repository.version("nobody", 1)
    with pytest.raises(UnknownLabel):
        repository.version("plain", "stable")


def test_versions_that_have_ended_are_told_for_a_while_only(tmp_path):
    versions = ModelVersions(folder_of(tmp_path))
    for number in range(1, 100):
        versions.set_state(number, State.END)
    versions.set_state(100, State.AVAILABLE)
    assert [status.number for status in versions.statuses()] == [100, *range(99, 99 - MOST_ENDED, -1)]


AVAILABLE, LOADING, END = State.AVAILABLE, State.LOADING, State.END


@pytest.mark.parametrize(
    ("workers", "state"),
    [
        ([[(1, AVAILABLE)], [(1, AVAILABLE)]], AVAILABLE),
        ([[(1, AVAILABLE)], [(1, LOADING)]], LOADING),
        ([[(1, AVAILABLE)], [(1, END)]], END),
        ([[(1, AVAILABLE)], []], State.START),
        ([[(1, END)], []], END),
        ([[(1, State.UNLOADING)], [(1, END)]], State.UNLOADING),
    ],
)
def test_available_is_what_every_worker_has(workers, state):
    told = [[VersionStatus(number, each) for number, each in worker] for worker in workers]
    assert [status.state for status in merged(told)] == [state]


def test_the_newest_comes_first_and_an_error_is_kept():
    failed = VersionStatus(2, END, "INTERNAL", "broken")
    told = [[VersionStatus(1, AVAILABLE), failed], [VersionStatus(2, AVAILABLE), VersionStatus(1, AVAILABLE)]]
    assert merged(told) == [failed, VersionStatus(1, AVAILABLE)]

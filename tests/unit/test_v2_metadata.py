"""What the server and its models say of themselves, without a wire."""

import asyncio
import re

import pytest

import modelserver
from modelserver import Model, ModelNotFound, ModelNotReady
from modelserver.dataplane import DataPlane
from modelserver.errors import UnknownLabel, VersionNotFound
from modelserver.lifecycle import Lifecycle
from modelserver.repository.model_repository import ModelRepository
from modelserver.repository.versions import ModelFolder, VersionPolicy
from modelserver.v2_metadata import model_metadata, server_metadata

INPUT = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
OUTPUT = {"name": "y", "datatype": "FP32", "shape": [-1]}


class Described(Model):
    platform = "mine"

    def get_input_types(self):
        return [INPUT | {"name": f"x{self.version or ''}"}]

    async def get_output_types(self):
        await asyncio.sleep(0)
        return (OUTPUT,)


@pytest.fixture
def dataplane(tmp_path):
    """A model without versions, one that is not loaded, and versions, of which 2 and 10 are available."""
    repository = ModelRepository()
    plain = Described("plain")
    plain.load()
    repository.update(plain)
    repository.update(Described("unloaded"))
    for number in (2, 10, 11):
        (tmp_path / str(number)).mkdir()
    everything = VersionPolicy(everything=True)
    repository.add_folder(
        ModelFolder("numbered", tmp_path, lambda path, number: Described("numbered"), everything)
    )
    versions = repository.versions["numbered"]
    for number in (10, 2):
        versions.pending[number].load()
        versions.loaded(number)
    repository.put_in_front("numbered")
    return DataPlane(repository, Lifecycle())


def test_the_server_names_what_it_serves():
    plain, managed = server_metadata(is_managed=False), server_metadata(is_managed=True)
    assert plain == ("modelserver", modelserver.__version__, ["binary_tensor_data", "parameters"])
    assert managed.extensions == [*plain.extensions, "model_repository", "model_repository_extension"]


@pytest.mark.parametrize("version", [None, 1])
def test_a_model_without_versions_is_version_1(dataplane, version):
    metadata = asyncio.run(model_metadata(dataplane, "plain", version))
    assert metadata == ("plain", ["1"], "mine", [INPUT | {"name": "x"}], [OUTPUT])


@pytest.mark.parametrize(("version", "name"), [(None, "x10"), (2, "x2"), (10, "x10")])
def test_the_versions_are_those_that_can_be_asked_the_newest_last(dataplane, version, name):
    metadata = asyncio.run(model_metadata(dataplane, "numbered", version))
    assert metadata.versions == ["2", "10"]
    assert metadata.inputs[0]["name"] == name


@pytest.mark.parametrize(
    ("name", "version", "error", "text"),
    [
        ("nobody", None, ModelNotFound, "Model with name nobody does not exist."),
        ("nobody", 1, VersionNotFound, "Servable not found for request: Specific(nobody, 1)"),
        ("plain", 2, VersionNotFound, "Servable not found for request: Specific(plain, 2)"),
        ("numbered", 11, VersionNotFound, "Servable not found for request: Specific(numbered, 11)"),
        ("plain", "stable", UnknownLabel, "Unrecognized servable version label: stable"),
        ("unloaded", None, ModelNotReady, "Model with name unloaded is not ready."),
    ],
)
def test_what_cannot_be_asked_says_nothing_of_itself(dataplane, name, version, error, text):
    with pytest.raises(error, match=re.escape(text)):
        asyncio.run(model_metadata(dataplane, name, version))

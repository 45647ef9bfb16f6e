"""Versions, policies, labels, upgrades and rollbacks, with PyTorch and TensorFlow models under traffic."""

import shutil

import pytest
from harness import serving, wait_until
from versioned import (
    QUICK,
    Steady,
    answer,
    made,
    put,
    put_slowly,
    states,
    take_away,
    wait_for,
)

KINDS = ["pytorch", "tensorflow"]

CONFIG = """
model_config_list {{
  config {{ name: "up_pytorch" base_path: "{0}/up_pytorch" }}
  config {{ name: "up_tensorflow" base_path: "{0}/up_tensorflow" model_platform: "tensorflow" }}
  config {{ name: "copied_pytorch" base_path: "{0}/copied_pytorch" }}
  config {{ name: "copied_tensorflow" base_path: "{0}/copied_tensorflow" }}
  config {{ name: "bad_pytorch" base_path: "{0}/bad_pytorch" }}
  config {{ name: "bad_tensorflow" base_path: "{0}/bad_tensorflow" }}
  config {{ name: "latest" base_path: "{0}/latest" model_version_policy {{ latest {{ num_versions: 2 }} }} }}
  config {{ name: "all" base_path: "{0}/all" model_version_policy {{ all {{}} }} }}
  config {{
    name: "specific" base_path: "{0}/specific"
    model_version_policy {{ specific {{ versions: 1 versions: 3 }} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 3 }}
  }}
  config {{ name: "lost" base_path: "{0}/lost" }}
  config {{ name: "empty" base_path: "{0}/empty" }}
}}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder that models are made in."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=["1", "2"], ids=["one worker", "two workers"])
def served(request, tmp_path_factory, models):
    """A server of many models, and the folder that theirs are in."""
    base = tmp_path_factory.mktemp("base")
    for kind in KINDS:
        for name in ("up", "copied", "bad"):
            put(made(kind, 1, models), base / f"{name}_{kind}", 1)
    for name in ("latest", "all", "specific", "lost"):
        put(made("pytorch", 1, models), base / name, 1)
    put(made("tensorflow", 3, models), base / "specific", 3)
    (base / "empty").mkdir()
    config = base.parent / "models.config"
    config.write_text(CONFIG.format(base))
    flags = ["--model_config_file", config, "--workers", request.param]
    with serving(["-m", "modelserver", *QUICK, *flags], base.parent / "log") as server:
        server.wait_ready("up_pytorch", "up_tensorflow", "lost")
        wait_until(lambda: server.text().count("is ready") == int(request.param), what="all workers ready")
        yield server, base


def failure_of(server, name, version):
    status = status_of(server, name, version)["status"]
    return status if status["error_code"] == "INTERNAL" else None


def status_of(server, name, version):
    [found] = server.get(f"/v1/models/{name}/versions/{version}").json()["model_version_status"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_upgrade_and_a_rollback_lose_no_request(served, models, kind):
    server, base = served
    name = f"up_{kind}"
    with Steady(server, name, (1.0, 2.0)) as clients:
        clients.wait_for(1.0)
        put(made(kind, 2, models), base / name, 2)
        clients.wait_for(2.0)
        wait_for(server, name, v2="AVAILABLE", v1="END")
        gone = server.post(f"/v1/models/{name}/versions/1:predict", {"instances": [[1.0]]})
        assert gone.status == 404
        take_away(base / name, 2)
        clients.wait_for(1.0)
        wait_for(server, name, v1="AVAILABLE", v2="END")
        clients.wait_for_more()
    clients.check(1.0, 2.0, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_copied_into_place_is_served_when_it_is_complete(served, models, kind):
    """A pause may be longer than the looks are apart: what is half there can be tried, and never serves."""
    server, base = served
    name = f"copied_{kind}"
    with Steady(server, name, (1.0, 2.0)) as clients:
        clients.wait_for(1.0)
        model = made(kind, 2, models)
        put_slowly(model, base / name, "0002", 0.15, lambda: states(server, name).get(2) != "AVAILABLE")
        clients.wait_for(2.0)
    clients.check(1.0, 2.0)
    wait_for(server, name, v2="AVAILABLE", v1="END")


def corrupt(folder):
    path = folder / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:40])


def lose_variables(folder):
    shutil.rmtree(folder / "variables")


def misspell(folder):
    (folder / "model.py").write_text("import torch\nclass Scale(\n")


def misfit(folder):
    import torch

    torch.save({"linear.weight": torch.ones(2, 5)}, folder / "model.pt")


@pytest.mark.parametrize(
    ("kind", "version", "spoil", "told"),
    [
        ("tensorflow", 2, corrupt, "TensorFlow cannot load the SavedModel"),
        ("tensorflow", 3, lose_variables, "The export is incomplete"),
        ("pytorch", 2, misspell, "model.py"),
        ("pytorch", 3, misfit, "linear.weight"),
    ],
)
def test_a_bad_version_replaces_nothing_until_it_is_mended(served, models, kind, version, spoil, told):
    server, base = served
    name = f"bad_{kind}"
    before = answer(server, name)
    good = made(kind, version, models)
    spoilt = models / f"spoilt-{kind}-{version}"
    if not spoilt.exists():
        shutil.copytree(good, spoilt)
        spoil(spoilt)
    with Steady(server, name, (before, float(version))) as clients:
        clients.wait_for(before)
        folder = put(spoilt, base / name, version)
        wait_for(server, name, **{f"v{version}": "END", f"v{version - 1}": "AVAILABLE"})
        # One worker may have failed before the other begins: then the version is being loaded once more.
        status = wait_until(lambda: failure_of(server, name, version), what="the failure")
        assert told in status["error_message"], status
        assert str(base) not in status["error_message"]
        assert f"Version {version} of model {name} cannot be loaded" in server.text()
        clients.wait_for_more()
        shutil.copytree(good, folder, dirs_exist_ok=True)
        clients.wait_for(float(version))
    clients.check(before, float(version))
    wait_for(server, name, **{f"v{version}": "AVAILABLE", f"v{version - 1}": "END"})
    assert status_of(server, name, version)["status"] == {"error_code": "OK", "error_message": ""}


def test_the_latest_two_are_served_side_by_side(served, models):
    server, base = served
    for number, kind in ((2, "tensorflow"), (10, "pytorch")):  # PyTorch and TensorFlow in one folder
        put(made(kind, number, models), base / "latest", number)
        wait_for(server, "latest", **{f"v{number}": "AVAILABLE"})
    wait_for(server, "latest", v10="AVAILABLE", v2="AVAILABLE", v1="END")
    assert list(states(server, "latest")) == [10, 2, 1]
    assert answer(server, "latest") == 10
    assert answer(server, "latest", "/versions/00002") == 2
    take_away(base / "latest", 10)
    wait_for(server, "latest", v10="END", v2="AVAILABLE", v1="AVAILABLE")
    assert answer(server, "latest") == 2
    assert answer(server, "latest", "/versions/1") == 1


def test_all_are_served(served, models):
    server, base = served
    for number in (3, 2):
        put(made("pytorch", number, models), base / "all", f"{number:04}")
    wait_for(server, "all", v1="AVAILABLE", v2="AVAILABLE", v3="AVAILABLE")
    assert [answer(server, "all", path) for path in ("", "/versions/1", "/versions/2")] == [3, 1, 2]
    take_away(base / "all", "0002")
    wait_for(server, "all", v1="AVAILABLE", v2="END", v3="AVAILABLE")


def test_specific_versions_and_labels(served, models):
    server, base = served
    put(made("pytorch", 2, models), base / "specific", 2)
    put(made("pytorch", 4, models), base / "all", 4)
    wait_for(server, "all", v4="AVAILABLE")  # so it has looked into the other, too
    assert states(server, "specific") == {3: "AVAILABLE", 1: "AVAILABLE"}
    assert answer(server, "specific") == 3
    assert answer(server, "specific", "/labels/stable") == 1
    assert answer(server, "specific", "/labels/canary") == 3
    unknown = server.request("POST", "/v1/models/specific/labels/none:predict", {"instances": [[1.0]]})
    assert (unknown.status, unknown.json()) == (
        400,
        {"error": "Unrecognized servable version label: none"},
    )
    missing = server.request("POST", "/v1/models/specific/versions/2:predict", {"instances": [[1.0]]})
    assert (missing.status, missing.json()) == (
        404,
        {"error": "Servable not found for request: Specific(specific, 2)"},
    )


def test_available_means_in_every_worker(served, models):
    server, base = served
    before = max(states(server, "all"))
    for number in range(before + 1, before + 4):
        put(made("pytorch", 1, models), base / "all", number)
        wait_for(server, "all", **{f"v{number}": "AVAILABLE"})
        for _ in range(50):
            assert answer(server, "all", f"/versions/{number}") == 1


def test_a_folder_that_is_lost_takes_nothing_down(served, models):
    server, base = served
    folder = base / "lost"
    with Steady(server, "lost", (1.0, 2.0)) as clients:
        take_away(folder, 1)
        wait_until(lambda: "no version of model lost that is wanted is in its folder" in server.text())
        clients.wait_for_more()
        folder.rmdir()
        wait_until(lambda: "the folder of model lost cannot be read" in server.text())
        clients.wait_for_more()
        assert states(server, "lost") == {1: "AVAILABLE"}
        put(made("pytorch", 2, models), folder, 2)  # the storage is back
        clients.wait_for(2.0)
    clients.check(1.0, 2.0)


def test_an_empty_folder_is_waited_for(served, models):
    server, base = served
    if not any((base / "empty").iterdir()):
        assert server.get("/v1/models/empty").status == 503
        response = server.predict({"instances": [[1.0]]}, "empty")
        assert (response.status, response.json()) == (503, {"error": "Model with name empty is not ready."})
        put(made("tensorflow", 7, models), base / "empty", 7)
    server.wait_ready("empty")
    wait_for(server, "empty", v7="AVAILABLE")
    assert answer(server, "empty") == 7


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_tells_the_version(served, kind):
    server, _ = served
    name = f"up_{kind}"
    found = server.get(f"/v1/models/{name}/metadata").json()
    assert found["model_spec"] == {"name": name, "signature_name": "", "version": "1"}
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    [shown] = signature["inputs"].values()
    assert shown["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in shown["tensor_shape"]["dim"]] == ["-1", "1"]
    assert server.get(f"/v1/models/{name}/versions/1/metadata").json() == found
    assert server.get(f"/v1/models/{name}/versions/9/metadata").status == 404

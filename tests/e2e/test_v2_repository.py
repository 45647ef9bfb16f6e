"""Loading and unloading models by V2's repository routes, with one and with several workers."""

import json

import pytest
from harness import serving, wait_until
from repositories import (
    ADMIN,
    READY,
    TOKEN,
    UNLOADED,
    Shelves,
    ask,
    everywhere,
    factors,
    index,
    order,
    ordered,
)
from versioned import Steady, pytorch

NOT_READY = {"error": "Model with name plain is not ready."}


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def shelves(request, tmp_path_factory):
    shelves = Shelves(tmp_path_factory.mktemp("shelves"))
    shelves.workers = request.param
    shelves.plain("plain", 1)
    shelves.plain("other", 1)
    shelves.plain("bad", 1)
    shelves.version("versioned", 1)
    shelves.shelf("shelved", 1)
    return shelves


@pytest.fixture(scope="module")
def server(shelves):
    with shelves.served(workers=shelves.workers) as server:
        yield server


def statuses(server, *paths):
    return [everywhere(lambda path=path: server.get(path).status) for path in paths]


def test_the_index(server):
    found = server.request("POST", "/v2/repository/index", b"")
    assert found.headers["Content-Type"] == "application/json"
    assert found.json()[0] == {"name": "versioned", "version": "1", "state": "READY", "reason": ""}
    assert [each["name"] for each in found.json()] == ["versioned", "bad", "other", "plain"]
    assert index(server, {"ready": True}) == index(server, {}) == index(server, {"ready": None})


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"{", 400, "Unrecognized request format"),
        (b"[]", 400, "Expected a JSON object"),
        (b'{"ready": 1}', 400, 'Expected "ready" to be true or false'),
        (b" " * 70_000, 413, "The body has 70000 bytes and the limit is 65536."),
    ],
)
def test_bodies_that_are_wrong(server, body, status, error):
    index_answer = server.post("/v2/repository/index", body)
    assert (index_answer.status, error in index_answer.json()["error"]) == (status, True)
    if b"ready" not in body:
        for verb in ("load", "unload"):
            answer = order(server, verb, "plain", body)
            assert (answer.status, error in answer.json()["error"]) == (status, True)
    assert index(server)["plain", "1"] == READY


def test_a_load_takes_no_parameters(server):
    answer = order(server, "load", "plain", {"parameters": {"config": "{}"}})
    assert answer.status == 400
    assert "this call takes no parameters" in answer.json()["error"]
    for body in (b"{}", b'{"parameters": {}}', b'{"parameters": null}', b""):
        assert order(server, "load", "plain", body).status == 200


def test_only_an_administrator_gives_orders(server):
    path = "/v2/repository/models/plain/unload"
    for headers, status in [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({**ADMIN, "Origin": "http://localhost"}, 403),
        ({**ADMIN, "Host": "evil.example"}, 403),
        ({**ADMIN, "Content-Type": "text/plain"}, 415),
        ({**ADMIN, "Content-Type": "application/x-www-form-urlencoded"}, 415),
    ]:
        assert server.request("POST", path, b"{}", headers=headers).status == status
    assert server.request("GET", path, headers=ADMIN).status == 405
    assert index(server)["plain", "1"] == READY


def test_unknown_models(server):
    for verb in ("load", "unload"):
        answer = order(server, verb, "nobody")  # to load it, the user's repository is asked
        assert (answer.status, answer.json()) == (404, {"error": "Model with name nobody does not exist."})
    assert "nobody" not in str(index(server))


def test_a_plain_model_is_unloaded_and_loaded_from_what_is_there_now(server, shelves):
    # As tritonclient sends it: JSON without a Content-Type.
    answer = order(server, "unload", "plain", b'{"parameters": {"unload_dependents": false}}')
    assert (answer.status, answer.json()) == (200, {"name": "plain", "unload": True})
    assert index(server)["plain", "1"] == UNLOADED
    assert ("plain", "1") not in index(server, {"ready": True})
    predicted = everywhere(lambda: server.predict({"instances": [[1.0]]}, "plain").body)
    assert [json.loads(each) for each in predicted] == [NOT_READY]
    infer = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}
    inferred = server.post("/v2/models/plain/infer", infer)
    assert (inferred.status, inferred.json()) == (503, NOT_READY)
    paths = ("/v2/models/plain/ready", "/v1/models/plain", "/v2/health/ready", "/v2/health/live", "/")
    assert statuses(server, *paths) == [{503}, {503}, {200}, {200}, {200}]
    assert "plain" in server.get("/v2/models").json()["models"]
    shelves.plain("plain", 7)
    ordered(server, "load", "plain")
    assert factors(server, "plain") == {(200, 7.0)}
    shelves.plain("plain", 8)
    ordered(server, "load", "plain")  # it need not be unloaded before
    assert factors(server, "plain") == {(200, 8.0)}
    assert statuses(server, *paths) == [{200}] * 5
    assert len(everywhere(lambda: ask(server, "plain")[2])) == shelves.workers


def test_a_load_that_fails(server, shelves):
    shelves.plain("bad", 1, load="raise")
    answer = order(server, "load", "bad")
    assert answer.status == 503
    expected = {"error": "Model with name bad is not ready. ValueError : no good"}
    assert answer.json() == expected
    ordered(server, "unload", "bad")
    assert order(server, "load", "bad").json() == expected
    assert index(server)["bad", "1"] == ("UNAVAILABLE", "ValueError : no good")
    assert statuses(server, "/v2/health/ready") == [{200}]
    shelves.plain("bad", 2)
    ordered(server, "load", "bad")
    assert factors(server, "bad") == {(200, 2.0)}


def test_a_folder_of_versions(server, shelves):
    shelves.version("versioned", 2)
    wait_until(lambda: index(server).get(("versioned", "2")) == READY, what="version 2")
    ordered(server, "unload", "versioned")
    found = index(server)
    assert found["versioned", "1"] == found["versioned", "2"] == UNLOADED
    assert factors(server, "versioned") == {(503, "Model with name versioned is not ready.")}
    assert everywhere(lambda: ask(server, "versioned", "/versions/2")[0]) == {404}
    shelves.version("versioned", 3)
    ordered(server, "load", "versioned")
    assert factors(server, "versioned") == {(200, 3.0)}
    shelves.version("versioned", 4)
    wait_until(lambda: index(server).get(("versioned", "4")) == READY, what="it is watched again")
    shelves.version("versioned", 5, load="raise")
    wait_until(lambda: "version 5" in server.text() or "Version 5" in server.text(), what="its failure")
    answer = order(server, "load", "versioned")
    assert answer.status == 503
    assert "version 5: no good" in answer.json()["error"]
    assert factors(server, "versioned") == {(200, 4.0)}


def test_a_model_that_the_users_repository_makes(server, shelves):
    assert factors(server, "shelved") == {(404, "Model with name shelved does not exist.")}
    ordered(server, "load", "shelved")
    assert factors(server, "shelved") == {(200, 1.0)}
    assert index(server)["shelved", "1"] == READY
    shelves.shelf("shelved", 2)
    ordered(server, "load", "shelved")
    assert factors(server, "shelved") == {(200, 2.0)}
    ordered(server, "unload", "shelved")
    assert factors(server, "shelved") == {(503, "Model with name shelved is not ready.")}
    ordered(server, "load", "shelved")
    assert factors(server, "shelved") == {(200, 2.0)}
    assert len(everywhere(lambda: ask(server, "shelved")[2])) == shelves.workers


class Patient(Steady):
    """Clients to whom 503 is an answer like another."""

    @property
    def lost(self):
        return [each for each in self.wrong if each[0] != 503]


def test_under_traffic_nothing_is_lost_but_to_503(server, shelves):
    ordered(server, "load", "other")
    with Patient(server, "other", (1.0, 2.0)) as clients:
        clients.wait_for(1.0)
        for _ in range(3):
            ordered(server, "unload", "other")
            refused = len(clients.wrong)
            wait_until(lambda: len(clients.wrong) > refused + 50, what="refusals")  # noqa: B023
            ordered(server, "load", "other")
        shelves.plain("other", 2)
        ordered(server, "load", "other")  # while it is loaded: nobody is refused
        refused = len(clients.wrong)
        clients.wait_for(2.0)
        assert len(clients.wrong) == refused
    assert clients.lost == []
    assert {body for _, body in clients.wrong} == {b'{"error":"Model with name other is not ready."}'}


def test_without_leave_there_are_no_orders(tmp_path):
    shelves = Shelves(tmp_path)
    shelves.plain("plain", 1)
    with shelves.served(workers=1, admin=False) as server:
        for verb in ("load", "unload"):
            assert order(server, verb, "plain").status == 404
        assert index(server) == {("plain", "1"): READY}


CONFIG = 'model_config_list {{ config {{ name: "configured" base_path: "{}" }} }}'


@pytest.mark.parametrize("kind", ["packaged", "configured"])
def test_what_the_command_line_names(kind, tmp_path):
    """A packaged model answers while another one from its files is loaded, and if that fails."""
    model = pytorch(tmp_path / "model" / ("1" if kind == "configured" else ""), 1)
    arguments = [f"packaged={tmp_path / 'model'}"]
    if kind == "configured":
        (tmp_path / "config").write_text(CONFIG.format(tmp_path / "model"))
        arguments = ["--model_config_file", tmp_path / "config"]
    flags = ["--workers", "2", "--enable_admin", "true"]
    env = {"MODELSERVER_ADMIN_TOKEN": TOKEN}
    with serving(["-m", "modelserver", *arguments, *flags], tmp_path / "log", env=env) as server:
        wait_until(lambda: server.get("/v2/health/ready").status == 200, 120, "ready")
        ordered(server, "unload", kind)
        assert index(server) == {(kind, "1"): UNLOADED}
        assert statuses(server, f"/v2/models/{kind}/ready", "/v2/health/ready") == [{503}, {200}]
        ordered(server, "load", kind)
        assert index(server) == {(kind, "1"): READY}
        with Patient(server, kind, (1.0, 2.0), 2) as clients:
            clients.wait_for(1.0)
            if kind == "packaged":
                factor(model, 2)
            ordered(server, "load", kind)
            clients.wait_for(2.0 if kind == "packaged" else 1.0)
        assert clients.wrong == []
        if kind == "packaged":
            (model / "model.pt").write_bytes(b"bad")
            answer = order(server, "load", kind)
            assert answer.status == 503
            assert str(tmp_path) not in answer.json()["error"]
            assert statuses(server, f"/v2/models/{kind}/ready") == [{200}]


def factor(folder, value):
    import torch

    torch.save({"linear.weight": torch.tensor([[float(value)]])}, folder / "new.pt")
    (folder / "new.pt").rename(folder / "model.pt")

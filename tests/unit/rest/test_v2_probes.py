"""V2's probes: they need no key, write no line, and are answered by a server that has no room left."""

import pytest

import modelserver
from modelserver.rest.access import ApiKeys, Secrets
from modelserver.rest.routes import Application

PROBES = [
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/health/ready?x=1",
    "/v2/models/m/ready",
    "/v2/models/a:b%20c/ready",
    "/v2/models/m/versions/1/ready",
    "/v2/models/m/labels/stable/ready",
]
OTHERS = [
    "/v2",
    "/v2/",
    "/v2/health",
    "/v2/health/other",
    "/v2/models",
    "/v2/models/m",
    "/v2/models//ready",
    "/v2/models/m/infer",
    "/v2/models/m/versions/1",
    "/v2/models/m/versions//ready",
    "/v2/models/m/other/1/ready",
    "/v2/models/a/b/c/ready/ready",
    "/v2/repository/index",
    "/v2/repository/models/m/load",
    "/v2/health/live/ready",
    "/x?/v2/health/live",
]


@pytest.fixture
def keys():
    return ApiKeys(Secrets("api_key_file", "", "MODELSERVER_API_KEY", {"MODELSERVER_API_KEY": "k"}))


@pytest.mark.parametrize("target", PROBES)
def test_a_probe_needs_no_key(keys, target):
    assert keys.admitted("GET", target, {}) == {}
    assert keys.admitted("POST", target, {}) is None


@pytest.mark.parametrize("target", OTHERS)
def test_everything_else_needs_one(keys, target):
    assert keys.admitted("GET", target, {}) is None


@pytest.mark.parametrize("target", PROBES)
def test_a_probe_that_is_answered_well_is_not_worth_a_line(target):
    application = modelserver.ModelServer(0, access_log=False).create_application()
    assert application._is_probe(target)
    assert not application._is_probe("/v2/models/m/infer")


def test_liveness_is_answered_where_there_is_no_room():
    assert b"/v2/health/live" in Application.vital_targets
    assert b"/v2/health/ready" not in Application.vital_targets

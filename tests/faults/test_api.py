"""The API as it is described, asked whatever its description allows and forbids: schemathesis makes it up."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import checks
from schemathesis.generation import GenerationMode
from wire import assert_serves, hostile_server

from modelserver.rest import openapi

DESCRIPTION = json.loads(openapi.document(metrics=True))
OPERATIONS = [
    (path, method) for path, item in DESCRIPTION["paths"].items() for method in item if method != "parameters"
]
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
CHECKS = (
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with hostile_server(tmp_path_factory.mktemp("api"), "--workers", "2") as running:
        yield running


@pytest.fixture(scope="module")
def schema(server):
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")


def test_the_server_hands_its_description_out(server):
    assert server.get("/openapi.json").json() == DESCRIPTION


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=[" ".join(each[::-1]) for each in OPERATIONS])
def test_no_request_makes_the_server_fail_and_every_answer_is_as_described(server, schema, path, method):
    operation = schema[path][method.upper()]
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in MODES))

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, is_known=st.booleans())
    def ask(case, is_known):
        if "model_name" in case.path_parameters and is_known:
            case.path_parameters["model_name"] = "numbers"
        response = case.call(timeout=30)
        assert response.status_code < 500 or response.status_code == 501, response.text
        case.validate_response(response, checks=CHECKS)

    ask()
    assert_serves(server)

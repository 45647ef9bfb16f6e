"""The description of the API: it says what the routes say, and every reference in it leads somewhere."""

import json

import jsonschema_rs
import pytest
import schemathesis

import modelserver
from modelserver.rest import handlers, openapi
from modelserver.rest.targets import inference_target

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


@pytest.fixture
def application():
    server = modelserver.ModelServer(0, access_log=False)
    server.register_model(modelserver.Model("m"))
    return server.create_application()


def described(**parts):
    paths = json.loads(openapi.document(**parts))["paths"]
    return {(method, path) for path, item in paths.items() for method in METHODS & item.keys()}


def pages(application):
    """Method and path of every page that tornado finds."""
    (rules,) = (rule.target.rules for rule in application.default_router.rules)
    for rule in rules:
        pattern, handler = rule.matcher.regex.pattern.removesuffix("$"), rule.target
        if handler is handlers.PostOnlyHandler:  # the other methods of the hot verbs
            continue
        for path in paths_of(pattern):
            for method in METHODS:
                if getattr(handler, method, None) is not getattr(tornados_own(handler), method, None):
                    yield method, path


def paths_of(pattern):
    """The paths that a route's pattern stands for, in the words of the description."""
    path = pattern.replace("(?i:v1/models)/([^/:]+)", "v1/models/{model_name}").replace("\\.", ".")
    path = path.replace("/models/([^/]+)", "/models/{model_name}")
    path = path.replace("(versions|labels)/([^/]+)", "(?i:(versions|labels))/([^/:]+)")
    optional, version = "(?:/(?i:(versions|labels))/([^/:]+))?", "/(?i:(versions|labels))/([^/:]+)"
    if optional in path:
        return [path.replace(optional, ""), *paths_of(path.replace(optional, version))]
    if version in path:
        return [path.replace(version, f"/{kind}s/{{{kind}}}") for kind in ("version", "label")]
    return [path]


def tornados_own(handler):
    return handler.__mro__[-2]  # tornado.web.RequestHandler; the last is object


def test_the_pages_described_are_those_that_are_routed(application):
    metrics = application.metrics is not None
    routed = set(pages(application))
    verbs = {("post", path) for method, path in described(metrics=metrics) if method == "post"} - routed
    assert described(metrics=metrics, admin=True) == routed | verbs
    assert len(verbs) == 4 * 3 + 3
    assert {("get", "/"), ("get", "/v2/models/{model_name}/versions/{version}/ready")} <= routed


def test_the_hot_verbs_described_are_those_that_are_found():
    posts = {path for method, path in described(metrics=True) if method == "post"} - {"/v2/repository/index"}
    values = {"model_name": "m", "version": 7, "label": "l"}
    found = {inference_target("POST", path.format(**values)) for path in posts}
    assert len(found) == len(posts)
    assert {(target.model_name, target.version) for target in found} == {("m", None), ("m", 7), ("m", "l")}
    assert {path for path in posts if ":" not in path} == {path for path in posts if path.startswith("/v2/")}
    verbs = {path.rpartition(":")[2] for path in posts if ":" in path}
    assert {verb for verb in (*verbs, "train") if inference_target("POST", f"/v1/models/m:{verb}")} == verbs


def test_the_page_of_counts_is_described_only_where_it_is_served():
    assert described(metrics=True) - described(metrics=False) == {("get", "/metrics")}


def test_administrative_calls_are_described_only_where_they_are_taken():
    more = described(metrics=True, admin=True) - described(metrics=True)
    assert more == {
        ("post", "/v2/repository/models/{model_name}/load"),
        ("post", "/v2/repository/models/{model_name}/unload"),
    }


def test_it_is_openapi_and_its_schemas_are_json_schemas():
    document = json.loads(openapi.document(metrics=True, admin=True))
    schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_every_reference_leads_somewhere():
    document = json.loads(openapi.document(metrics=True, admin=True))

    def references(value):
        if isinstance(value, dict):
            if "$ref" in value:
                yield value["$ref"]
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    found = set(references(document))
    assert found
    for reference in found:
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_the_names_of_operations_are_different():
    paths = json.loads(openapi.document(metrics=True, admin=True))["paths"]
    names = [item[method]["operationId"] for item in paths.values() for method in METHODS & item.keys()]
    assert len(names) == len(set(names)) == len(described(metrics=True, admin=True))

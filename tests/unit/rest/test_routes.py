"""URLs: which are hot, and that the application runs on tornado's own server too."""

import asyncio

import pytest
from tornado import httpclient, httpserver, testing, web

from modelserver import Model, ModelServer, ModelType
from modelserver.rest.targets import inference_target


@pytest.mark.parametrize(
    ("method", "path", "target"),
    [
        ("POST", "/v1/models/m:predict", ("m", ModelType.PREDICTOR, None)),
        ("POST", "/v1/models/m:explain", ("m", ModelType.EXPLAINER, None)),
        ("POST", "/v1/models/m:classify", ("m", ModelType.CLASSIFIER, None)),
        ("POST", "/v1/models/m:regress", ("m", ModelType.REGRESSOR, None)),
        ("POST", "/v1/models/m%3Apredict", ("m", ModelType.PREDICTOR, None)),
        ("POST", "/v1/models/a:b:predict?x=1", ("a:b", ModelType.PREDICTOR, None)),
        ("POST", "/v1/models/%ff:predict", ("\ufffd", ModelType.PREDICTOR, None)),
        ("POST", "/V1/Models/m:predict", ("m", ModelType.PREDICTOR, None)),
        ("POST", "/v1/models/m/versions/00000123:predict", ("m", ModelType.PREDICTOR, 123)),
        ("POST", "/v1/models/m%2Fn/versions/1%3Apredict?x=1", None),
        ("POST", "/v1/models/m%20n/versions/1%3Apredict?x=1", ("m n", ModelType.PREDICTOR, 1)),
        ("POST", "/v1/models/m/labels/stable:classify", ("m", ModelType.CLASSIFIER, "stable")),
        ("POST", "/v1/models/m/Labels/7:predict", ("m", ModelType.PREDICTOR, "7")),
        ("POST", "/v1/models/m/versions/x:predict", None),
        ("POST", f"/v1/models/m/versions/{2**63 - 1}:predict", ("m", ModelType.PREDICTOR, 2**63 - 1)),
        ("POST", f"/v1/models/m/versions/{2**63}:predict", None),
        ("POST", "/v1/models/m/versions/:predict", None),
        ("POST", "/v1/models/m/versions/²:predict", None),
        ("POST", "/v1/models/m/labels/:predict", None),
        ("POST", "/v1/models//versions/1:predict", None),
        ("POST", "/v1/models/versions/1:predict", None),
        ("GET", "/v1/models/m:predict", None),
        ("POST", "/v1/models/m:PREDICT", None),
        ("POST", "/v1/models/:predict", None),
        ("POST", "/v1/models/m", None),
        ("POST", "/v1/models/a/b:predict", None),
        ("POST", "/v2/models/m:predict", None),
    ],
)
def test_hot_verbs(method, path, target):
    assert inference_target(method, path) == (target and (*target, False))


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v2/models/m/infer", ("m", None)),
        ("/v2/models/m/infer?x=1", ("m", None)),
        ("/v2/models/a:b%20c/infer", ("a:b c", None)),
        ("/v2/models/a%252Fb/infer", ("a%2Fb", None)),
        ("/v2/models/infer/infer", ("infer", None)),
        ("/v2/models/m/versions/0012/infer", ("m", 12)),
        ("/v2/models/versions/versions/1/infer", ("versions", 1)),
        ("/v2/models/m/labels/a%20b/infer", ("m", "a b")),
        (f"/v2/models/m/versions/{2**63}/infer", None),
        ("/v2/models/m/versions/x/infer", None),
        ("/v2/models/m/versions//infer", None),
        ("/v2/models/m/other/1/infer", None),
        ("/v2/models//infer", None),
        ("/v2/models/infer", None),
        ("/v2/models/m/infer/", None),
        ("/v2/models/m/explain", None),
        ("/V2/models/m/infer", None),
    ],
)
def test_hot_verbs_of_v2(path, target):
    assert inference_target("POST", path) == (target and (target[0], ModelType.PREDICTOR, target[1], True))
    assert inference_target("GET", path) is None


class Double(Model):
    def predict(self, payload):
        return {"predictions": [2 * row for row in payload["instances"]]}


class OwnHandler(web.RequestHandler):
    def get(self):
        self.write("mine")


def test_the_application_runs_on_tornados_own_server_with_handlers_of_ones_own():
    server = ModelServer(access_log=False)
    model = Double("double")
    model.load()
    server.register_model(model)
    application = server.create_application()
    application.add_handlers(".*", [("/own", OwnHandler)])

    async def main():
        sock, port = testing.bind_unused_port()
        http_server = httpserver.HTTPServer(application)
        http_server.add_socket(sock)
        client = httpclient.AsyncHTTPClient(force_instance=True)
        base = f"http://127.0.0.1:{port}"
        predicted = await client.fetch(
            f"{base}/v1/models/double:predict", method="POST", body='{"instances": [1, 2]}'
        )
        own = await client.fetch(f"{base}/own")
        listed = await client.fetch(f"{base}/v1/models")
        missing = await client.fetch(f"{base}/nothing", raise_error=False)
        client.close()
        http_server.stop()
        await http_server.close_all_connections()
        return predicted.body, own.body, listed.body, (missing.code, missing.body)

    assert asyncio.run(main()) == (
        b'{"predictions":[2,4]}',
        b"mine",
        b'{"models":["double"]}',
        (404, b'{"error":"invalid path"}'),
    )
    assert server.create_application().dataplane.lifecycle.in_flight == set()

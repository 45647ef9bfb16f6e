"""URLs: which are hot, and that the application runs on tornado's own server too."""

import asyncio

import pytest
from tornado import httpclient, httpserver, testing, web

from modelserver import Model, ModelServer, ModelType
from modelserver.rest.routes import inference_target


@pytest.mark.parametrize(
    ("method", "path", "target"),
    [
        ("POST", "/v1/models/m:predict", ("m", ModelType.PREDICTOR)),
        ("POST", "/v1/models/m:explain", ("m", ModelType.EXPLAINER)),
        ("POST", "/v1/models/m%3Apredict", ("m", ModelType.PREDICTOR)),
        ("POST", "/v1/models/a:b:predict?x=1", ("a:b", ModelType.PREDICTOR)),
        ("POST", "/v1/models/%ff:predict", ("\ufffd", ModelType.PREDICTOR)),
        ("GET", "/v1/models/m:predict", None),
        ("POST", "/v1/models/m:PREDICT", None),
        ("POST", "/v1/models/:predict", None),
        ("POST", "/v1/models/m", None),
        ("POST", "/v1/models/a/b:predict", None),
        ("POST", "/v2/models/m:predict", None),
    ],
)
def test_hot_verbs(method, path, target):
    assert inference_target(method, path) == target


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

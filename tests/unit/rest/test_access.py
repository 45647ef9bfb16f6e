"""Who may ask: keys on both ways into the application and on tornado's own server, and the admin guard."""

import contextlib
import logging

import pytest
from tornado import httpclient, httpserver, httputil, testing, web

from modelserver import Model, ModelServer, Settings, StartError
from modelserver.rest.access import Access, AdminHandler, ApiKeys, Secrets

KEY = "k-0123456789abcdef"
OTHER = "another-key"
HOT = ("POST", "/v1/models/m:predict")


def secrets(file="", **environ):
    return Secrets("api_key_file", str(file), "MODELSERVER_API_KEY", environ)


@pytest.fixture
def keys():
    return ApiKeys(secrets(MODELSERVER_API_KEY=KEY))


# -- the secrets


def test_a_file_holds_one_in_each_line(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n  {KEY}  \r\n{OTHER}")
    found = secrets(file, MODELSERVER_API_KEY="third\n")
    assert all(found.include(each) for each in (KEY, OTHER, "third"))
    assert not any(found.include(each) for each in ("", "# ours", KEY[:-1], KEY + "x", KEY.upper(), "é"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--api_key_file: {} cannot be read: No such file or directory."),
        (b"", "--api_key_file: {} is empty. Write one secret in each line."),
        (b"# no key\n\n", "--api_key_file: {} is empty. Write one secret in each line."),
        (b"good\nnot good\n", "--api_key_file: line 2 of {} is no visible ASCII text without blanks."),
        ("good\nschlüssel".encode(), "--api_key_file: line 2 of {} is no visible ASCII text without blanks."),
        (b"\xff\xfe", "--api_key_file: {} cannot be read: no UTF-8 text."),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_without_a_word_of_it(tmp_path, content, message):
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StartError) as caught:
        secrets(file)
    assert str(caught.value) == message.format(file)


@pytest.mark.parametrize("value", ["", "  ", "two words", "schlüssel"])
def test_a_variable_that_is_set_to_nothing_does_not_open_the_door(value):
    with pytest.raises(StartError) as caught:
        secrets(MODELSERVER_API_KEY=value)
    assert str(caught.value).startswith(
        "The environment variable MODELSERVER_API_KEY is empty, or no visible"
    )
    assert "words" not in str(caught.value)


def test_every_secret_is_compared_and_as_a_digest(monkeypatch, tmp_path):
    file = tmp_path / "keys"
    file.write_text("\n".join(f"key-{n}" for n in range(5)))
    found, compared = secrets(file), []
    monkeypatch.setattr(
        "modelserver.rest.access.hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b
    )
    assert found.include("key-0")
    assert not found.include("x" * 1000)
    assert len(compared) == 10
    assert {len(each) for pair in compared for each in pair} == {32}


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr("modelserver.rest.access._LOOK_EVERY_S", 0.0)


def test_a_file_that_changes_is_read_again(tmp_path, no_waiting, caplog):
    caplog.set_level(logging.INFO)
    file = tmp_path / "keys"
    file.write_text(KEY)
    found = secrets(file, MODELSERVER_API_KEY="fixed")
    assert found.include(KEY)
    file.write_text(OTHER)
    assert (found.include(KEY), found.include(OTHER), found.include("fixed")) == (False, True, True)
    assert [record.getMessage() for record in caplog.records] == [
        f"--api_key_file: 2 secrets are taken again from {file}"
    ]


@pytest.mark.parametrize("content", [None, "", "two words"])
def test_a_file_that_gets_unusable_changes_nothing_and_is_told_once(tmp_path, no_waiting, caplog, content):
    file = tmp_path / "keys"
    file.write_text(KEY)
    found = secrets(file)
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    assert all(found.include(KEY) for _ in range(3))
    (record,) = caplog.records
    assert record.getMessage().startswith("The secrets of before stay: --api_key_file: ")
    assert KEY not in caplog.text


def test_the_file_is_looked_at_once_a_second(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(KEY)
    found = secrets(file)
    looks = []
    monkeypatch.setattr(found._watch, "changed", lambda: looks.append(1) or False)
    clock = iter([100.0, 100.5, 100.9, 101.1])
    monkeypatch.setattr("modelserver.rest.access.time.monotonic", lambda: next(clock))
    for _ in range(4):
        found.include(KEY)
    assert len(looks) == 2


def test_by_default_anybody_may_ask_and_there_are_no_administrative_calls():
    assert Access.of(Settings(), {}) == Access(None, None)


# -- the key of a request


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"authorization": f"Bearer {KEY}"}, {}),
        ({"authorization": f"bearer  {KEY}"}, {}),
        ({"x-api-key": KEY, "x-other": "1"}, {"x-other": "1"}),
        ({"x-api-key": KEY, "authorization": "Bearer somebody"}, {"authorization": "Bearer somebody"}),
        ({"x-api-key": KEY, "authorization": f"Bearer {KEY}"}, {}),
    ],
)
def test_a_key_lets_in_and_is_taken_off(keys, fields, left):
    before = dict(fields)
    assert keys.admitted(*HOT, fields) == left
    assert fields == before


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {KEY},{KEY}"},
        {"authorization": f"Bearer {KEY}x"},
        {"x-api-key": ""},
        {"x-api-key": f"Bearer {KEY}"},
        {"x-api-key": "\xff\xfe"},
        {"cookie": f"key={KEY}"},
    ],
)
def test_anything_else_does_not(keys, fields):
    assert keys.admitted(*HOT, fields) is None


@pytest.mark.parametrize(
    ("method", "target", "is_open"),
    [
        ("GET", "/", True),
        ("GET", "/?x=/v1", True),
        ("GET", "/v1/models/m", True),
        ("GET", "/v1/models/m?x=1", True),
        ("GET", "/v1/models", False),
        ("GET", "/v1/models/", False),
        ("GET", "/v1/models/m/x", False),
        ("GET", "/v1/models/m:predict", False),
        ("GET", "/metrics", False),
        ("GET", "//", False),
        ("GET", "/x", False),
        ("GET", "*", False),
        ("HEAD", "/", False),
        ("POST", "/", False),
        ("POST", "/v1/models/m", False),
        ("OPTIONS", "/", False),
        ("get", "/", False),
        (*HOT, False),
    ],
)
def test_probes_need_none_and_everything_else_one(keys, method, target, is_open):
    assert (keys.admitted(method, target, {}) is not None) is is_open
    assert keys.admitted(method, target, {"x-api-key": KEY}) == {}


# -- in the application, on tornado's own server


class Echo(Model):
    def predict(self, payload, headers):
        return {"predictions": payload["instances"], "headers": sorted(headers)}


class Own(web.RequestHandler):
    def get(self):
        self.write({"headers": sorted(name.lower() for name, _ in self.request.headers.get_all())})


@contextlib.contextmanager
def served_by_tornado(application):
    """``ask(method, path, **kwargs)`` on a stock ``tornado.httpserver.HTTPServer``."""

    class Case(testing.AsyncTestCase):
        def runTest(self):
            pass

    case = Case()
    case.setUp()
    sock, port = testing.bind_unused_port()
    server = httpserver.HTTPServer(application)
    server.add_socket(sock)

    def ask(method, path, **kwargs):
        kwargs.setdefault("body", None if method in ("GET", "HEAD") else b"{}")
        client = httpclient.AsyncHTTPClient(force_instance=True)
        fetch = client.fetch(f"http://127.0.0.1:{port}{path}", method=method, raise_error=False, **kwargs)
        try:
            return case.io_loop.run_sync(lambda: fetch, timeout=20)
        finally:
            client.close()

    try:
        yield ask
    finally:
        server.stop()
        case.io_loop.run_sync(server.close_all_connections)
        case.tearDown()


def application(access, **handlers):
    server = ModelServer(access_log=False)
    model = Echo("m")
    model.ready = True
    server.register_model(model)
    app = server.create_application()
    app.api_keys, app.admin_guard = access.api_keys, access.admin_guard
    app.add_handlers(".*", list(handlers.items()))
    return app


def test_the_key_on_tornados_own_server_and_for_handlers_of_ones_own(keys):
    body = b'{"instances": [1]}'
    with served_by_tornado(application(Access(keys), **{"/own": Own})) as ask:
        assert ask("GET", "/").code == 200
        assert ask("GET", "/v1/models/m").code == 200
        for method, path in [HOT, ("GET", "/own"), ("GET", "/v1/models"), ("GET", "/nothing")]:
            refused = ask(method, path)
            assert refused.code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert refused.headers["Content-Type"] == "application/json"
            assert KEY not in refused.body.decode()
        good = {"X-API-Key": KEY, "X-Mine": "1"}
        answer = ask(*HOT, body=body, headers=good)
        assert answer.code == 200, answer.body
        assert b'"x-mine"' in answer.body
        assert b'"x-api-key"' not in answer.body
        own = ask("GET", "/own", headers=good).body
        assert b'"x-mine"' in own
        assert b'"x-api-key"' not in own
        assert ask("GET", "/nothing", headers=good).code == 404


# -- administrative calls


class Unload(AdminHandler):
    calls = 0

    def post(self):
        Unload.calls += 1
        self.reply({})


@pytest.fixture
def guarded():
    access = Access.of(Settings(enable_admin=True), {"MODELSERVER_ADMIN_TOKEN": "admin-token"})
    Unload.calls = 0
    app = application(access)
    app.add_handlers(".*", [("/admin/unload", Unload, {"dataplane": app.dataplane})])
    return app


GOOD = {"Authorization": "Bearer admin-token"}


def test_a_token_from_this_machine_lets_in(guarded):
    with served_by_tornado(guarded) as ask:
        for kwargs in (
            {"headers": GOOD, "body": b""},
            {"headers": {**GOOD, "Content-Type": "application/json; charset=utf-8"}, "body": b"{}"},
            {"headers": {**GOOD, "Host": "localhost:8080", "Sec-Fetch-Site": "none"}, "body": b""},
            {"headers": {**GOOD, "Host": "[::1]:8080"}, "body": b""},
        ):
            # tornado's client says so of every POST without a Content-Type
            kwargs["headers"] = {"Content-Type": "application/json", **kwargs["headers"]}
            answer = ask("POST", "/admin/unload", **kwargs)
            assert answer.code == 200, answer.body
        assert Unload.calls == 4


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer admin-toke"}, 401),
        ({"Authorization": "Basic admin-token"}, 401),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "localhost:80:80"}, 403),
        ({"X-Forwarded-For": "127.0.0.1"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/mixed; boundary=x"}, 415),
    ],
)
def test_browsers_strangers_and_forms_are_refused(guarded, headers, code):
    # row 60
    with served_by_tornado(guarded) as ask:
        answer = ask("POST", "/admin/unload", headers={"Content-Type": "application/json", **GOOD, **headers})
        assert answer.code == code
        assert "evil" not in str(list(answer.headers.get_all())) + answer.body.decode()
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        assert answer.headers.get("WWW-Authenticate") == ("Bearer" if code == 401 else None)
    assert Unload.calls == 0


@pytest.mark.parametrize(
    ("address", "is_let_in"),
    [
        ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False), ("::ffff:10.0.0.1", False), ("fe80::1%eth0", False), ("", False), ("x", False),
    ],
)  # fmt: skip
def test_the_client_is_on_this_machine(guarded, address, is_let_in):
    request = httputil.HTTPServerRequest(
        start_line=httputil.RequestStartLine("POST", "/admin/unload", "HTTP/1.1"),
        headers=httputil.HTTPHeaders({**GOOD, "Host": "localhost"}),
    )
    request.remote_ip = address
    with contextlib.nullcontext() if is_let_in else pytest.raises(web.HTTPError, match="403"):
        guarded.admin_guard.check(request)


def test_where_they_are_not_enabled_there_is_no_such_path(guarded):
    guarded.admin_guard = None
    with served_by_tornado(guarded) as ask:
        answer = ask("POST", "/admin/unload", headers=GOOD)
        assert (answer.code, answer.body) == (404, b'{"error":"invalid path"}')
    assert Unload.calls == 0


def test_a_key_and_a_token_are_two_things(guarded, keys):
    guarded.api_keys = keys
    json_type = {"Content-Type": "application/json"}
    with served_by_tornado(guarded) as ask:
        assert ask("POST", "/admin/unload", headers={**json_type, **GOOD}).code == 401  # no key
        assert ask("POST", "/admin/unload", headers={**json_type, "X-API-Key": KEY}).code == 401  # no token
        assert ask("POST", "/admin/unload", headers={**json_type, **GOOD, "X-API-Key": KEY}).code == 200


def test_to_enable_them_takes_a_token(tmp_path):
    with pytest.raises(StartError) as caught:
        Access.of(Settings(enable_admin=True), {})
    assert str(caught.value) == (
        "--enable_admin needs a token: name a file that holds one with --admin_token_file, or set "
        "MODELSERVER_ADMIN_TOKEN."
    )
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    access = Access.of(Settings(enable_admin=True, admin_token_file=str(file)), {})
    assert access.admin_guard is not None
    assert Access.of(Settings(admin_token_file=str(tmp_path / "missing")), {}).admin_guard is None

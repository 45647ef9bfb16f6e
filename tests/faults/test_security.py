"""Security: TLS, API keys, and what nobody can reach. Real servers, real handshakes, real strangers."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import time
from pathlib import Path

import pytest
from harness import run, serving, wait_until
from wire import connect, head, post, read_answer, statuses, talk, until_closed

PREDICT = "/v1/models/m:predict"
GOOD = post(b'{"instances":[1]}', PREDICT)
KEY = "k-3f9a7c51e2"
LOOPS = {"uvloop": {}, "asyncio": {"NO_UVLOOP": "1"}}
SEVERAL = {"one": [], "supervised": ["--supervise", "true"], "two": ["--workers", "2"]}


@pytest.fixture
def guarded(programs, tmp_path):
    """``guarded(*flags, **env)``: the server of programs/guarded.py."""

    def start(*flags, **env):
        env.setdefault("FOLDER", str(tmp_path))
        return serving([programs / "guarded.py", *flags], tmp_path / "log", env=env)

    return start


@contextlib.contextmanager
def secured(port, pair):
    """A TLS connection, and the certificate that the server has shown."""
    with (
        connect(port) as raw,
        pair.client().wrap_socket(raw, server_hostname="localhost") as sock,
    ):
        yield sock


def ask(port, pair, request=GOOD):
    with secured(port, pair) as sock:
        sock.sendall(request)
        return read_answer(sock)


def is_ready(server, pair):
    assert server.process.poll() is None, server.text()
    try:
        return ask(server.port, pair, head("/v1/models/m", method="GET")).status == 200
    except OSError:
        return False


def shown(port):
    """The fingerprint of the certificate that a new connection is shown."""
    der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port), timeout=30))
    return hashlib.sha256(der).hexdigest()


def fingerprint(pair):
    der = ssl.PEM_cert_to_DER_cert(pair.certfile.read_text())
    return hashlib.sha256(der).hexdigest()


# -- TLS


@pytest.mark.parametrize(
    ("kind", "loop"), [("one", "uvloop"), ("one", "asyncio"), ("supervised", "uvloop"), ("two", "asyncio")]
)
def test_requests_are_answered_and_finished_over_tls(guarded, pair, kind, loop):
    with guarded(*pair.flags, *SEVERAL[kind], **LOOPS[loop]) as server:
        wait_until(lambda: is_ready(server, pair))
        assert "Listening on https://" in server.text()
        assert "Try: " not in server.text() or "curl -k https://localhost" in server.text()
        with secured(server.port, pair) as sock:
            for number in range(20):
                body = b'{"instances":[%d]}' % number
                sock.sendall(post(body, PREDICT))
                assert json.loads(read_answer(sock).body)["predictions"] == [number]
            large = list(range(200_000))
            sock.sendall(post(json.dumps({"instances": large}).encode(), PREDICT))
            assert json.loads(read_answer(sock).body)["predictions"] == large
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "requests in flight" in server.text())
            sock.sendall(GOOD)  # answers until the last moment, and says that it leaves
            answer = read_answer(sock)
            assert (answer.status, answer.headers["Connection"]) == (200, "close")
            assert until_closed(sock) == b""
        assert server.process.wait(60) == 0


def test_liveness_is_answered_over_tls_while_a_model_loads_before_the_fork(guarded, pair, tmp_path):
    with guarded(*pair.flags, "--workers", "2", PRELOAD="1") as server:
        live = head("/", method="GET")
        assert wait_until(lambda: ask(server.port, pair, live)).status == 200
        assert ask(server.port, pair).status == 503
        (tmp_path / "go").touch()
        wait_until(lambda: is_ready(server, pair))
        assert ask(server.port, pair).status == 200


@pytest.mark.parametrize("loop", LOOPS)
def test_other_bytes_at_a_tls_port_and_tls_at_another(guarded, pair, pairs, loop):
    # row 28
    def refusals(server):
        return [line for line in server.text().splitlines() if "Refused a " in line]

    with guarded(*pair.flags, **LOOPS[loop]) as server:
        wait_until(lambda: is_ready(server, pair))
        before = len(refusals(server))
        said = talk(server.port, GOOD)
        assert statuses(said) == (400,)
        assert b"This port speaks HTTPS" in said
        assert statuses(talk(server.port, os.urandom(300).replace(b"\x16", b"\x17"))) == (400,)
        talk(server.port, b"\x16\x03\x01" + b"\xff" * 2000)  # closed, with an alert at most
        with pytest.raises(ssl.SSLError):
            ask(server.port, pairs[1])
        wait_until(lambda: len(refusals(server)) == before + 4)
        assert ask(server.port, pair).status == 200
    with guarded(**LOOPS[loop]) as server:
        server.wait_ready("m")
        before = len(refusals(server))
        with pytest.raises(ssl.SSLError):
            ask(server.port, pair)
        wait_until(lambda: len(refusals(server)) == before + 1)
        assert server.predict({"instances": [1]}, "m").status == 200


def test_a_client_that_says_nothing_is_cut_in_the_handshake(guarded, pair):
    # row 17, for TLS: the limit is that of a request's head, 20 s by default
    with guarded(*pair.flags, "--timeout_read", "1") as server:
        wait_until(lambda: is_ready(server, pair))
        silent = [connect(server.port) for _ in range(20)]
        for sock in silent[10:]:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        for sock in silent:
            assert until_closed(sock) == b""
            sock.close()
        assert ask(server.port, pair).status == 200


def test_a_replaced_certificate_is_shown_by_every_worker(guarded, pair, pairs):
    with guarded(*pair.flags, "--workers", "2") as server:
        wait_until(lambda: is_ready(server, pair))
        with secured(server.port, pairs[0]) as kept:
            # Half of a file, as by a slow copy: the old pair stays, and each worker says so once.
            pair.certfile.write_bytes(pairs[1].certfile.read_bytes()[:300])
            wait_until(lambda: server.text().count("The TLS certificate of before stays: ") == 2)
            assert {shown(server.port) for _ in range(8)} == {fingerprint(pairs[0])}
            pair.replace(pairs[1])
            wait_until(lambda: {shown(server.port) for _ in range(8)} == {fingerprint(pairs[1])})
            kept.sendall(GOOD)
            assert read_answer(kept).status == 200  # its connection lives on
        # A worker that is forked now inherits the first certificate, and must not show it.
        gone = server.workers()[0]
        os.kill(gone, signal.SIGKILL)
        wait_until(lambda: gone not in server.workers() and len(server.workers()) == 2)
        wait_until(lambda: server.text().count(" is ready") >= 3)
        assert {shown(server.port) for _ in range(8)} == {fingerprint(pairs[1])}
        assert ask(server.port, pairs[1]).status == 200


# -- what ends the server before it loads a model


def refused_at_start(programs, tmp_path, *flags, **env):
    done = run(
        [programs / "guarded.py", "--http_port", "0", *flags],
        env={"FOLDER": str(tmp_path), **env},
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "loaded").exists()
    assert "Listening" not in done.stderr
    return done.stderr.splitlines()[-1].removeprefix("modelserver: ")


def test_files_that_cannot_be_used_end_the_server_with_one_line(programs, pairs, tmp_path):
    first, second = pairs
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.touch()
    for flags, message in [
        (
            ["--ssl_certfile", missing],
            f"--ssl_certfile: {missing} cannot be read: No such file or directory.",
        ),
        (
            ["--ssl_certfile", first.certfile, "--ssl_keyfile", second.keyfile, "--workers", "2"],
            f"TLS: the key is not that of the certificate in {first.certfile} and {second.keyfile}.",
        ),
        (["--ssl_keyfile", first.keyfile], "--ssl_keyfile is given without --ssl_certfile: TLS needs both."),
        (
            ["--api_key_file", missing],
            f"--api_key_file: {missing} cannot be read: No such file or directory.",
        ),
        (["--api_key_file", empty], f"--api_key_file: {empty} is empty. Write one secret in each line."),
    ]:
        assert refused_at_start(programs, tmp_path, *flags) == message
    assert refused_at_start(programs, tmp_path, MODELSERVER_API_KEY="").startswith(
        "The environment variable MODELSERVER_API_KEY is empty"
    )
    assert refused_at_start(programs, tmp_path, "--enable_admin", "true").startswith(
        "--enable_admin needs a token"
    )


# -- the API key


@pytest.fixture(scope="module", params=["one", "two"])
def keyed(request, programs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keyed")
    env = {"FOLDER": str(folder), "MODELSERVER_API_KEY": KEY}
    with serving([programs / "guarded.py", *SEVERAL[request.param]], folder / "log", env=env) as server:
        yield server.wait_ready("m")  # readiness needs no key


def test_everything_but_probes_needs_the_key(keyed):
    bearer, plain = {"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}
    assert keyed.get("/").status == 200
    for method, path, found in [
        ("POST", PREDICT, 200),
        ("POST", "/v1/models/m:explain", 501),
        ("POST", "/v1/models/other:predict", 404),
        ("GET", PREDICT, 405),
        ("GET", "/v1/models", 200),
        ("GET", "/nothing", 404),
        ("POST", "/v2/repository/models/m/load", 404),
        ("OPTIONS", PREDICT, 405),
    ]:
        body = {"instances": [1]} if method == "POST" else None
        for wrong in ({}, {"Authorization": f"Bearer {KEY}x"}, {"X-API-Key": KEY.upper()}):
            refused = keyed.request(method, path, body, headers=wrong)
            assert refused.status == 401, (method, path)
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert refused.json().keys() == {"error"}
            assert KEY.lower() not in (str(refused.headers) + refused.body.decode()).lower()
        for right in (bearer, plain):
            assert keyed.request(method, path, body, headers=right).status == found
    # Whole, with a head that came before, a request goes in by another way.
    with_key = post(b'{"instances":[1]}', PREDICT, f"X-API-Key: {KEY}")
    for _ in range(8):
        assert statuses(talk(keyed.port, GOOD)) == (401,)
        with connect(keyed.port) as sock:
            sock.sendall(with_key)
            answer = read_answer(sock)
            assert (answer.status, "x-api-key" in json.loads(answer.body)["headers"]) == (200, False)
    seen = keyed.request("POST", PREDICT, {"instances": [1]}, headers={**bearer, "X-Mine": "1"}).json()
    assert "x-mine" in seen["headers"]
    assert "authorization" not in seen["headers"]
    # What an administrator may look at does not show it.
    assert KEY not in keyed.text()
    for pid in (keyed.process.pid, *keyed.workers()):
        assert KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_no_byte_of_a_body_is_asked_for_without_the_key(keyed):
    for fields in (["Content-Length: 1099511627776"], ["Transfer-Encoding: chunked"]):
        for expect in ([], ["Expect: 100-continue"]):
            began = time.monotonic()
            with connect(keyed.port) as sock:
                sock.sendall(head(PREDICT, *fields, *expect))
                assert read_answer(sock).status == 401  # and no 100 before
                assert until_closed(sock) == b""
            assert time.monotonic() - began < 10
    # A connection that was refused takes no second request, and one with the key as many as it likes.
    assert statuses(
        talk(keyed.port, GOOD + GOOD.replace(b"\r\n\r\n", f"\r\nX-API-Key: {KEY}\r\n\r\n".encode()))
    ) == (401,)
    with connect(keyed.port) as sock:
        for _ in range(3):
            sock.sendall(post(b'{"instances":[1]}', PREDICT, f"X-API-Key: {KEY}"))
            assert read_answer(sock).status == 200


def test_keys_of_a_file_change_without_a_restart(guarded, tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# first\n{KEY}\n")

    def works(key):
        # Often enough to meet both workers.
        answers = [
            server.request("POST", PREDICT, {"instances": [1]}, headers={"X-API-Key": key}) for _ in range(8)
        ]
        return {answer.status for answer in answers}

    with guarded("--workers", "2", "--api_key_file", str(file)) as server:
        server.wait_ready("m")
        assert (works(KEY), works("second")) == ({200}, {401})
        file.write_text("second\n")
        wait_until(lambda: works("second") == {200})
        wait_until(lambda: works(KEY) == {401})
        file.write_text("")
        wait_until(lambda: works("second") and "The secrets of before stay" in server.text())
        assert works("second") == {200}
        assert "second" not in server.text().replace("keys", "")


# -- what nobody can reach

NAMES = [
    "..",
    "../..",
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e%2fsecret",
    "%252e%252e%252fsecret",
    "..%5c..%5csecret",
    "..%c0%afsecret",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "m/../../secret",
    "m%00",
    "%00",
    "%ff%fe",
    "\xff\xfe",
    "file:%2f%2f%2fetc%2fpasswd",
    "~%2fsecret",
    "a" * 4096,
    "%2e%2e%2f" * 450,
]


def opened_files(folder):
    """But for modules, and for / itself: the server opens it to see which descriptor is free."""
    lines = (folder / "opened").read_text().splitlines()
    return [line for line in lines if line != "open '/'" and "site-packages" not in line]


@pytest.mark.parametrize("flags", [[], ["--workers", "2"]], ids=["one", "two"])
def test_names_lead_nowhere(guarded, tmp_path, flags):
    # row 59
    (tmp_path / "secret").write_text("canary-of-the-test")
    with guarded(*flags, AUDIT="1") as server:
        server.wait_ready("m")
        assert server.predict({"instances": [1]}, "m").status == 200
        before = opened_files(tmp_path)
        for name in NAMES:
            for request in (
                head(f"/v1/models/{name}", "Connection: close", method="GET"),
                post(b'{"instances":[1]}', f"/v1/models/{name}:predict", "Connection: close"),
                post(b'{"instances":[1]}', f"/v1/models/{name}:explain", "Connection: close"),
                head(f"/{name}", "Connection: close", method="GET"),
                head(f"/v1/models/m/versions/{name}", "Connection: close", method="GET"),
            ):
                with connect(server.port) as sock:
                    sock.sendall(request)
                    answer = read_answer(sock)
                assert answer.status in (400, 404), (name, answer)
                assert answer.error()
                assert b"root:" not in answer.body
                assert b"canary" not in answer.body
                assert str(tmp_path).encode() not in answer.body
        assert opened_files(tmp_path) == before  # no file, no folder
        assert server.predict({"instances": [1]}, "m").status == 200


EVIL = {"Origin": "https://evil.example", "Host": "evil.example"}


def test_no_answer_trusts_a_browser(guarded):
    # row 60
    with guarded("--enable_admin", "true", MODELSERVER_ADMIN_TOKEN="token-of-the-test") as server:
        server.wait_ready("m")
        answers = []
        for path in (
            "/v2/repository/index",
            "/v2/repository/models/m/load",
            "/v2/repository/models/m/unload",
            "/v1/models/m/load",
            "/v1/models/m:load",
            "/v1/models/m:unload",
            "/admin",
        ):
            for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/json"):
                answer = server.request("POST", path, b"{}", headers={**EVIL, "Content-Type": content_type})
                # The list of models can be read without a token, as elsewhere; by a page only with CORS.
                assert answer.status == 200 if path.endswith("index") else answer.status in (403, 404, 405)
                answers.append(answer)
        for method, path in [
            ("OPTIONS", PREDICT), ("OPTIONS", "/"), ("GET", "/"), ("GET", "/v1/models"), ("GET", "/nothing"),
            ("GET", "/v1/models/m"), ("GET", PREDICT), ("POST", "/"), ("POST", PREDICT),
        ]:  # fmt: skip
            body = {"instances": [1]} if method == "POST" else None
            asks = {**EVIL, "Access-Control-Request-Method": "POST", "Cookie": "a=b"}
            answers.append(server.request(method, path, body, headers=asks))
        answers.append(server.post(PREDICT, b"x" * 11 * 2**20, Host="evil.example"))  # 413
        for answer in answers:
            names = [name.lower() for name in answer.headers]
            assert not [name for name in names if name.startswith("access-control")]
            assert "set-cookie" not in names
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert b"evil" not in str(answer.headers).encode() + answer.body
        assert server.predict({"instances": [1]}, "m").status == 200


def processes(server):
    """The server's own, at any depth."""
    found, pending = [], [server.process.pid]
    while pending:
        pid = pending.pop()
        found.append(pid)
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            pending += map(int, path.read_text().split())
    return found


def socket_inodes(pids):
    links = []
    for descriptor in [each for pid in pids for each in Path(f"/proc/{pid}/fd").iterdir()]:
        with contextlib.suppress(FileNotFoundError):  # it was closed between the listing and the look
            links.append(str(descriptor.readlink()))
    return {int(found[1]) for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}


def rows(name):
    return [line.split() for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]


@pytest.mark.parametrize("flags", SEVERAL.values(), ids=SEVERAL)
def test_nothing_listens_but_the_port(guarded, flags):
    # rows 14 and 61
    with guarded(*flags) as server:
        server.wait_ready("m")
        inodes = socket_inodes(processes(server))
        listening = {
            int(row[1].rpartition(":")[2], 16)
            for family in ("tcp", "tcp6")
            for row in rows(family)
            if int(row[9]) in inodes and row[3] == "0A"
        }
        assert listening == {server.port}
        assert not [row for family in ("udp", "udp6") for row in rows(family) if int(row[9]) in inodes]
        pairs = [row for row in rows("unix") if int(row[6]) in inodes]
        assert pairs or flags == []
        for row in pairs:
            assert int(row[3], 16) & 0x10000 == 0  # not listening
            assert len(row) == 7  # without a name or a path
    assert not [row for family in ("tcp", "tcp6") for row in rows(family) if int(row[9]) in inodes]


@pytest.mark.parametrize("flags", [SEVERAL["supervised"], SEVERAL["two"]], ids=["supervised", "two"])
def test_junk_from_a_worker_does_not_hurt_the_supervisor(guarded, tmp_path, flags):
    # row 61: a pickle among it, and every byte that the supervisor knows
    with guarded(*flags, JUNK="1") as server:
        server.wait_ready("m")
        wait_until((tmp_path / "all-taken").exists)  # more than fits: somebody has read it
        wait_until(lambda: server.request("POST", PREDICT, {"instances": [1]}).status == 200)
        assert not (tmp_path / "canary").exists()
        assert not Path("canary").exists()
        # The supervisor is itself: it replaces a worker that is killed, and ends when it is told to.
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: _answers(server))
        assert "Traceback" not in server.text()
        assert server.stop() == 0


def _answers(server):
    try:
        return server.predict({"instances": [1]}, "m", timeout_s=5).status == 200
    except OSError:
        return False


def test_what_is_sent_to_the_port_is_no_word_for_the_supervisor(guarded):
    # row 61: what connects to the port, and speaks the channel's words or a pickle, gets 400
    with guarded("--workers", "2") as server:
        server.wait_ready("m")
        for data in (b"r", b"h" * 64, b"cposix\nsystem\n(S'touch canary'\ntR.", b"\x80\x05" + bytes(100)):
            with connect(server.port) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                assert statuses(until_closed(sock)) in ((400,), ())
        assert len(server.workers()) == 2
        assert server.predict({"instances": [1]}, "m").status == 200

"""HTTPS on real sockets, in both kinds of loop: what goes through, what does not, and when it ends."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
from functools import partial

import certificates
import pytest

from modelserver import StartError
from modelserver.http.tls import Certificate

GET = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def certificate(pair):
    return Certificate(str(pair.certfile), str(pair.keyfile))


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, "modelserver.server")
    return lambda: [record.getMessage() for record in caplog.records]


def test_requests_are_answered_in_order(run, serving, recorder, certificate, pairs):
    async def main():
        recorder.requests.clear()
        async with serving(recorder, certificate) as served:
            client = await served.client(ssl=pairs[0].client())
            client.send(GET % 0 + GET % 1)
            assert [(await client.answer()).body for _ in range(2)] == [b"0", b"1"]
            client.send(POST % 300_000 + b"x" * 300_000 + GET % 3)
            assert [(await client.answer()).body for _ in range(2)] == [b"2", b"3"]
            assert recorder.requests[2][3] == b"x" * 300_000
            (connection,) = served.server.connections
            assert connection.context == ("127.0.0.1", "https")

    run(main)


def test_a_head_that_came_before_is_known(run, serving, recorder, certificate, pairs):
    async def main():
        async with serving(recorder, certificate) as served:
            client = await served.client(ssl=pairs[0].client())
            for _ in range(3):
                client.send(GET % 7)
                await client.answer()
            assert served.server.known_heads.get(GET % 7) is not None

    run(main)


def test_requests_cut_into_records_of_any_size(run, serving, recorder, certificate, pairs):
    data = GET % 0 + POST % 5 + b"abcde" + GET % 2

    async def main():
        async with serving(recorder, certificate) as served:
            for size in (1, 2, 7, len(data)):
                client = await served.client(ssl=pairs[0].client())
                for at in range(0, len(data), size):
                    client.send(data[at : at + size])  # a record each
                for _ in range(3):
                    assert (await client.answer()).status == 200

    run(main)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken_and_http_1_1_in_them(run, serving, recorder, certificate, pairs, version):
    async def main():
        async with serving(recorder, certificate) as served:
            context = pairs[0].client()
            context.minimum_version = context.maximum_version = version
            context.set_alpn_protocols(["h2", "http/1.1"])
            client = await served.client(ssl=context)
            client.send(GET % 0)
            assert (await client.answer()).status == 200
            assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"

    run(main)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_1_1_is_not_spoken(run, serving, recorder, certificate, pairs, logged):
    async def main():
        async with serving(recorder, certificate) as served:
            context = pairs[0].client()
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
                await served.client(ssl=context)
            await served.is_empty()
        assert [line for line in logged() if "TLS fails: unsupported protocol" in line]

    run(main)


@pytest.fixture
def large(make_recorder):
    """An application whose answer is larger than what the system takes for a client that does not read."""

    class Large(make_recorder):
        body = bytes(30_000_000)

        def start_request(self, server_conn, request_conn):
            delegate = super().start_request(server_conn, request_conn)
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(self.body)
            delegate._answer = lambda number: request_conn.write_answer(head, self.body)
            return delegate

    return Large()


def test_the_end_is_told_and_a_large_answer_is_not_cut_off(run, serving, certificate, pairs, large):
    """close_notify comes behind the last byte: else this client would raise."""
    may_read = threading.Event()

    def ask(port):
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            pairs[0]
            .client()
            .wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as client,
        ):
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            may_read.wait(20)
            return sum(len(piece) for piece in iter(partial(client.recv, 65536), b""))

    async def main():
        async with serving(large, certificate) as served:
            asking = asyncio.ensure_future(asyncio.to_thread(ask, served.port))
            (connection,) = await until(lambda: served.server.connections)
            await until(lambda: connection.is_closed)
            assert connection.is_busy  # an answer is on its way
            may_read.set()
            assert await asking > len(large.body)

    run(main)


def test_a_client_that_does_not_read_is_noticed(run, serving, certificate, pairs, large):
    async def main():
        async with serving(large, certificate, write_idle_s=0.3) as served:
            client = await served.client(ssl=pairs[0].client())
            client.writer.transport.pause_reading()
            client.send(GET % 0)
            (connection,) = await until(lambda: served.server.connections)
            await until(lambda: connection._is_full)
            assert connection.is_busy
            await until(lambda: not served.server.connections)  # cut off

    run(main)


def test_a_refusal_reaches_a_client_that_still_sends(run, serving, recorder, certificate, pairs):
    async def main():
        async with serving(recorder, certificate) as served:
            client = await served.client(ssl=pairs[0].client())
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + b"x" * 500_000)
            answer = await client.answer()
            assert answer.status == 400
            assert await client.ended() == b""

    run(main)


def test_who_says_nothing_has_as_long_as_for_a_head(run, serving, recorder, certificate, logged):
    async def main():
        async with serving(recorder, certificate, head_s=0.2) as served:
            silent = await served.client()
            begun = await served.client()
            begun.send(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello that goes no further
            assert await silent.ended() == await begun.ended() == b""
        assert logged() == ["Refused a connection from 127.0.0.1: no TLS handshake within 0.2 s"] * 2

    run(main)


def test_an_idle_connection_is_kept_as_long_as_any(run, serving, recorder, certificate, pairs, logged):
    async def main():
        async with serving(recorder, certificate, head_s=0.1, keep_alive_s=0.4) as served:
            client = await served.client(ssl=pairs[0].client())
            began = asyncio.get_running_loop().time()
            assert await client.reader.read() == b""
            assert asyncio.get_running_loop().time() - began > 0.3
        assert logged() == []

    run(main)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (GET % 0, "no TLS handshake, but other bytes"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "no TLS handshake, but other bytes"),
        (b"\x80\x2e\x01\x00\x02", "no TLS handshake, but other bytes"),  # SSL 2
        (b"\x16" * 100, "TLS fails: wrong version number"),
        (b"\x16\x03\x01\x00\x05" + b"\xff" * 5, "TLS fails: "),
    ],
)
def test_other_bytes_end_with_one_line(run, serving, recorder, certificate, logged, data, line):
    # row 28
    async def main():
        recorder.requests.clear()
        async with serving(recorder, certificate) as served:
            client = await served.client()
            client.send(data)
            said = await client.ended()
            if data[0] != 0x16:
                head, _, body = said.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 400 ")
                assert b"This port speaks HTTPS" in body
        assert recorder.requests == []
        (logged_line,) = logged()
        assert logged_line.startswith(f"Refused a connection from 127.0.0.1: {line}")

    run(main)


def test_a_damaged_record_ends_the_connection(run, serving, recorder, certificate, pairs, logged):
    async def main():
        async with serving(recorder, certificate) as served:
            client = await served.client(ssl=pairs[0].client())
            client.send(GET % 0)
            await client.answer()
            raw = client.writer.get_extra_info("socket")
            os.write(raw.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
            with contextlib.suppress(ssl.SSLError):
                await client.reader.read()
            await served.is_empty()
        (line,) = logged()
        assert "TLS fails: decryption failed or bad record mac" in line

    run(main)


def test_a_client_that_distrusts_the_certificate_is_told_of(
    run, serving, recorder, certificate, pairs, logged
):
    async def main():
        async with serving(recorder, certificate) as served:

            def ask():
                with socket.create_connection(("127.0.0.1", served.port)) as raw:
                    pairs[1].client().wrap_socket(raw, server_hostname="localhost")

            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.to_thread(ask)  # asyncio's own client would not say why it leaves
            await served.is_empty()
        (line,) = logged()
        assert "TLS fails: tlsv1 alert unknown ca" in line

    run(main)


def test_a_client_that_leaves_is_forgotten(run, serving, recorder, certificate, pairs):
    async def main():
        recorder.requests.clear()
        recorder.lost.clear()
        recorder.gates[0] = asyncio.get_running_loop().create_future()
        async with serving(recorder, certificate) as served:
            client = await served.client(ssl=pairs[0].client())
            client.send(POST % 5 + b"abc")
            await until(lambda: any(each._line for each in served.server.connections))
            client.leave()
            await served.is_empty()
        assert recorder.lost == ["/"]

    run(main)


def test_close_notify_is_the_end(run, serving, recorder, certificate, pairs):
    async def main():
        async with serving(recorder, certificate) as served:
            client = await served.client(ssl=pairs[0].client())
            client.send(GET % 0)
            await client.answer()
            client.writer.close()
            await served.is_empty()

    run(main)


def test_what_waits_in_the_backlog_is_served_when_the_server_stops(
    run, serving, recorder, certificate, pairs
):
    async def main():
        async with serving(recorder, certificate) as served:
            raw = socket.create_connection(("127.0.0.1", served.port))
            raw.setblocking(False)
            stopping = asyncio.ensure_future(served.server.stop_accepting())
            reader, writer = await asyncio.open_connection(
                sock=raw, ssl=pairs[0].client(), server_hostname="localhost"
            )
            await stopping
            writer.write(GET % 0)
            assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
            writer.transport.abort()

    run(main)


def test_a_silent_client_does_not_hold_up_the_end(run, serving, recorder, certificate):
    async def main():
        async with serving(recorder, certificate) as served:
            await served.client()
            await until(lambda: served.server.connections)
            began = asyncio.get_running_loop().time()
            await served.server.stop_accepting()
            served.server.close()
            await served.is_empty()
            assert asyncio.get_running_loop().time() - began < 5

    run(main)


def test_where_there_is_no_room_the_answer_is_503(run, serving, recorder, certificate, pairs):
    async def main():
        async with serving(recorder, certificate, max_connections=1) as served:
            first, second = [await served.client(ssl=pairs[0].client()) for _ in range(2)]
            for client, status in ((second, 503), (first, 200)):
                client.send(GET % 0)
                assert (await client.answer()).status == status
            assert await second.reader.read() == b""

    run(main)


# -- the certificate


def test_a_new_pair_is_taken_for_new_connections(run, serving, recorder, pair, certificate, pairs, logged):
    async def main():
        async with serving(recorder, certificate) as served:
            before = await served.client(ssl=pairs[0].client())
            pair.replace(pairs[1])
            await until(logged)
            after = await served.client(ssl=pairs[1].client())
            for client in (before, after):
                client.send(GET % 0)
                assert (await client.answer()).status == 200
        lines = [line for line in logged() if "certificate" in line]
        # Files replaced one after the other may be seen in between.
        assert lines[-1] == f"The TLS certificate is taken again from {pair.certfile}"

    run(main)


@pytest.mark.parametrize("what", ["half", "mismatch", "gone"])
def test_a_pair_that_cannot_be_used_leaves_the_old_one(pair, certificate, pairs, logged, what):
    before = certificate.context
    if what == "half":
        pair.certfile.write_bytes(pairs[1].certfile.read_bytes()[:200])
    elif what == "mismatch":
        pair.certfile.write_bytes(pairs[1].certfile.read_bytes())
    else:
        pair.keyfile.unlink()
    for _ in range(3):
        certificate.refresh()
    assert certificate.context is before
    (line,) = logged()  # once
    assert line.startswith("The TLS certificate of before stays: ")
    pair.replace(pairs[1])
    certificate.refresh()
    assert certificate.context is not before


def test_a_link_that_points_elsewhere_is_a_change(pairs, tmp_path):
    """As cert-manager's files are in Kubernetes: tls.crt -> ..data/tls.crt, ..data -> a folder."""
    for number, pair in enumerate(pairs):
        (tmp_path / str(number)).mkdir()
        certificates.Pair(tmp_path / str(number) / "tls.crt", tmp_path / str(number) / "tls.key").replace(
            pair
        )
    (tmp_path / "..data").symlink_to("0")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    certificate = Certificate(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))
    before = certificate.context
    certificate.refresh()
    assert certificate.context is before
    (tmp_path / "..new").symlink_to("1")
    (tmp_path / "..new").replace(tmp_path / "..data")
    certificate.refresh()
    assert certificate.context is not before


def test_a_certificate_and_its_key_may_be_one_file(pairs, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(pairs[0].keyfile.read_bytes() + pairs[0].certfile.read_bytes())
    assert Certificate.of(str(both), "") is not None


def test_without_a_certificate_there_is_none():
    assert Certificate.of("", "") is None


def test_what_cannot_be_used_is_refused_by_name(pairs, tmp_path):
    first, second = pairs
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    missing, cert, key = tmp_path / "missing.pem", first.certfile, first.keyfile
    locked = certificates.encrypted(first)
    for certfile, keyfile, message in [
        (missing, key, f"--ssl_certfile: {missing} cannot be read: No such file or directory."),
        (cert, tmp_path, f"--ssl_keyfile: {tmp_path} cannot be read: Is a directory."),
        (
            cert,
            second.keyfile,
            f"TLS: the key is not that of the certificate in {cert} and {second.keyfile}.",
        ),
        (junk, key, f"TLS: {junk} and {key} cannot be used as a certificate with its key: "),
        (cert, "", f"TLS: {cert} cannot be used as a certificate with its key: "),
        ("", key, "--ssl_keyfile is given without --ssl_certfile: TLS needs both."),
        (
            cert,
            locked,
            f"--ssl_keyfile: the key in {locked} is encrypted. Give it without a password: openssl ",
        ),
    ]:
        with pytest.raises(StartError) as caught:
            Certificate.of(str(certfile), str(keyfile))
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


async def until(condition):
    while not (found := condition()):
        await asyncio.sleep(0.001)
    return found

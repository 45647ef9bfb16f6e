"""TLS: the certificate, which may be replaced while the server runs, and one connection's encryption.

``TLSConnection`` stands between the socket's transport and a ``Connection``: a protocol to the first, a
transport to the second, which does not know whether its bytes travel encrypted.

The loop's own TLS is not used, for what it keeps to itself: a handshake that fails leaves no trace, and the
bytes that wait behind its encryption count neither for back-pressure nor as unsent, so that a client that
stops reading is not noticed, and a large answer can be cut off when the server stops.

Rules of the room: bytes and certificates; no HTTP but the answer to a client that speaks it unencrypted.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from http.client import responses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from modelserver.errors import StartError
from modelserver.file_watch import FileWatch
from modelserver.http.exchange import refusal
from modelserver.logs import RateLimited
from modelserver.protocols.v1_json import encode_error

if TYPE_CHECKING:
    from modelserver.http.connection import Connection
    from modelserver.http.server import HTTPServer

_log = logging.getLogger("modelserver.server")

_failures = RateLimited(
    lambda count, kind, period_s: _log.info(
        "Refused %d more connections in the last %g s: %s", count, period_s, kind
    )
)

_RECORD = 16 * 1024
_HANDSHAKE = 0x16  # the first byte of every TLS connection (RFC 8446, 5.1)


class Certificate:
    """A certificate chain and its private key, as PEM files that may be replaced.

    Args:
        certfile: the server's certificate, then those between it and a root.
        keyfile: its key, not encrypted. Empty: it is in ``certfile`` too.

    Attributes:
        context: for handshakes that begin now.

    Raises:
        StartError: a file cannot be read, or they hold no certificate with its key.
    """

    def __init__(self, certfile: str, keyfile: str = "") -> None:
        self._files = (certfile, keyfile) if keyfile else (certfile,)
        self._watch = FileWatch(*self._files)
        self.context = _context(*self._files)

    @classmethod
    def of(cls, certfile: str, keyfile: str) -> Certificate | None:
        """The certificate that the settings name; ``None``: the server speaks plain HTTP.

        Raises:
            StartError: there is a key and no certificate, or they cannot be used.
        """
        if certfile:
            return cls(certfile, keyfile)
        if keyfile:
            raise StartError("--ssl_keyfile is given without --ssl_certfile: TLS needs both.")
        return None

    def refresh(self) -> None:
        """Take the files again if they have changed. Connections that are open keep what they have.

        Files that cannot be used are told of once, and the old pair stays.
        """
        if not self._watch.changed():
            return
        try:
            self.context = _context(*self._files)
        except StartError as error:
            _log.warning("The TLS certificate of before stays: %s", error)
        else:
            _log.info("The TLS certificate is taken again from %s", self._files[0])


def _context(certfile: str, keyfile: str | None = None) -> ssl.SSLContext:
    for flag, name in (("ssl_certfile", certfile), ("ssl_keyfile", keyfile)):
        if name is not None:
            try:
                Path(name).read_bytes()  # OpenSSL would not say which file it was
            except OSError as error:
                raise StartError(f"--{flag}: {name} cannot be read: {error.strerror}.") from None

    def ask_for_password() -> NoReturn:  # else OpenSSL would ask at the terminal, and wait
        raise StartError(
            f"--ssl_keyfile: the key in {keyfile or certfile} is encrypted. Give it without a password: "
            "openssl pkey -in KEY -out PLAIN_KEY"
        )

    where = f"{certfile} and {keyfile}" if keyfile else certfile
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certfile, keyfile, ask_for_password)
    except OSError as error:  # ssl.SSLError is one
        reason = _reason(error)
        if reason == "key values mismatch":
            raise StartError(f"TLS: the key is not that of the certificate in {where}.") from None
        raise StartError(f"TLS: {where} cannot be used as a certificate with its key: {reason}.") from None
    return context


class TLSConnection(asyncio.Protocol, asyncio.Transport):
    """One connection's encryption.

    Args:
        server: whose limits hold, and whose clock.
        certificate: of the server.
        inside: gets and sends the plain bytes.
    """

    def __init__(self, server: HTTPServer, certificate: Certificate, inside: Connection) -> None:
        super().__init__()
        self._server = server
        self._inside: Connection | None = inside
        self._received = ssl.MemoryBIO()
        self._unsent = ssl.MemoryBIO()
        self._tls = certificate.context.wrap_bio(self._received, self._unsent, server_side=True)
        self._raw: asyncio.Transport
        self._patience_s = 0.0
        self._handshake_by = float("inf")
        self._is_new = True
        self._is_open = False  # the handshake is done
        self._is_over = False  # nothing is encrypted or decrypted any more

    # -- the protocol of the socket's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected; it has at most as long for the handshake as for a request's head."""
        inside = self._inside
        assert inside is not None
        self._raw = cast(asyncio.Transport, transport)
        inside.connection_made(self)
        if not inside.is_closed:
            now = self._server.now()
            self._patience_s = inside.deadline - now
            inside.deadline = self._handshake_by = min(inside.deadline, now + self._server.limits.head_s)

    def data_received(self, data: bytes) -> None:
        """Encrypted bytes have come."""
        inside = self._inside
        if inside is None:
            return
        if self._is_over:
            if inside.lingers:
                inside.data_received(data)  # which only counts what it throws away
            return
        if self._is_new:
            self._is_new = False
            if data[0] != _HANDSHAKE:
                self._refuse_plain(inside)
                return
        self._received.write(data)
        pieces: list[bytes] = []
        has_ended = False
        try:
            if not self._is_open:
                self._tls.do_handshake()
                self._is_open = True
                inside.deadline = self._server.now() + self._patience_s
            while self._received.pending or self._tls.pending():
                piece = self._tls.read(_RECORD)
                if not piece:
                    has_ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass  # the rest of a record, or of the handshake, is still to come
        except ssl.SSLError as error:
            self._fail(inside, _reason(error))
            return
        self._flush()  # the handshake's answer
        if pieces:
            inside.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if has_ended and not inside.eof_received():
            self.close()

    def eof_received(self) -> bool | None:
        """The client will send no more."""
        return None if self._inside is None else self._inside.eof_received()

    def pause_writing(self) -> None:
        """The client reads slower than it is answered."""
        if self._inside is not None:
            self._inside.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self._inside is not None:
            self._inside.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        inside, self._inside = self._inside, None  # each knows the other: nobody shall wait for the collector
        if inside is not None:
            inside.connection_lost(exc)

    # -- the transport of the connection inside

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the socket's transport; ``ssl_object`` is there, too."""
        return self._tls if name == "ssl_object" else self._raw.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send. Before the handshake there is nobody to send to."""
        if self._is_open and not self._is_over:
            self._tls.write(data)  # into memory: always all of it
            self._flush()

    def get_write_buffer_size(self) -> int:
        """The encrypted bytes that wait; there are no others."""
        return self._raw.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Read no more. What is read is decrypted at once, so nothing is left behind."""
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._raw.resume_reading()

    def is_closing(self) -> bool:
        """Whether the end has begun."""
        return self._raw.is_closing()

    def can_write_eof(self) -> bool:
        """The end can be told, and the client still be listened to."""
        return True

    def write_eof(self) -> None:
        """Tell the end."""
        self._end()
        self._raw.write_eof()

    def close(self) -> None:
        """Tell the end, and close when all is sent."""
        if not self._is_open and not self._is_over and self._server.now() >= self._handshake_by:
            self._log_failure(f"no TLS handshake within {self._server.limits.head_s:g} s")
        self._end()
        self._raw.close()

    def abort(self) -> None:
        """Close at once."""
        self._raw.abort()

    # -- inside

    def _flush(self) -> None:
        if self._unsent.pending and not self._raw.is_closing():
            self._raw.write(self._unsent.read())

    def _end(self) -> None:
        """Send close_notify, so that the client knows that nothing was cut off. Its own is not waited for."""
        if self._is_over:
            return
        self._is_over = True
        if self._is_open:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # SSLWantReadError: it would like to see the client's; any other changes nothing
            self._flush()

    def _fail(self, inside: Connection, reason: str) -> None:
        self._log_failure(f"TLS fails: {reason}")
        self._flush()  # the alert
        self._is_over = True
        inside.close()

    def _refuse_plain(self, inside: Connection) -> None:
        reason = "This port speaks HTTPS, and the bytes received are no TLS handshake."
        self._log_failure("no TLS handshake, but other bytes")
        self._server.refused(400)
        self._is_over = True
        self._raw.write(refusal(400, responses[400], encode_error(reason)))
        inside.close()

    def _log_failure(self, reason: str) -> None:
        if _failures.admits(reason):
            peer = self._raw.get_extra_info("peername")
            where = peer[0] if isinstance(peer, tuple) else "a socket"
            _log.info("Refused a connection from %s: %s", where, reason)


def _reason(error: OSError) -> str:
    """OpenSSL's words, without its place in C."""
    reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
    return str(reason).replace("_", " ").lower()

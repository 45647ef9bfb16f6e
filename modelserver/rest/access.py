"""Who may ask: keys for the API, and the guard of administrative calls.

Rules of the room: a request is judged by its head, before a byte of its body is taken. Secrets come from
files and the environment, never from a flag, which every user of the machine can read in the list of
processes. They are kept as digests, compared in constant time, and written nowhere.

``routes.Application`` asks ``ApiKeys`` about every request, whatever its URL. A handler for administrators
asks ``AdminGuard`` by deriving from ``AdminHandler``: ``v2_repository`` has the server's own.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tornado import httputil, web

from modelserver.errors import StartError
from modelserver.file_watch import FileWatch
from modelserver.protocols.v1_json import encode_error
from modelserver.rest.answers import Answer, error_answer
from modelserver.rest.handlers import JsonHandler
from modelserver.settings import Settings

_log = logging.getLogger("modelserver.server")

API_KEY = "MODELSERVER_API_KEY"
ADMIN_TOKEN = "MODELSERVER_ADMIN_TOKEN"  # noqa: S105 - the name of a variable

_LOOK_EVERY_S = 1.0
_OPEN = re.compile(
    r"/|/v1/models/[^/:]+|/v2/health/(?:live|ready)|/v2/models/[^/]+(?:/(?:versions|labels)/[^/]+)?/ready"
)
_LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")

UNAUTHORIZED = Answer(
    401,
    encode_error("An API key is needed: send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`."),
    headers={"WWW-Authenticate": "Bearer"},
)
"""To a request without a right key (RFC 6750, 3)."""


class Secrets:
    """Some secrets, each as good as the other, from a file that may change and from the environment.

    Args:
        flag: the setting that names the file.
        file: one secret in each line; empty lines and lines that begin with ``#`` are left out. Empty: none.
        variable: the environment variable that may hold another one.
        environ: where it is looked for.

    Raises:
        StartError: the file cannot be read or holds none, or one is no visible ASCII text without blanks.
    """

    def __init__(self, flag: str, file: str, variable: str, environ: Mapping[str, str]) -> None:
        self._flag, self._file = flag, file
        self._fixed: list[bytes] = []
        if variable in environ:
            secret = environ[variable].strip()
            if not _can_be_sent(secret):  # empty, too: a Secret that was not mounted must not open the door
                raise StartError(
                    f"The environment variable {variable} is empty, or no visible ASCII text without blanks. "
                    "Set it to a secret, or unset it."
                )
            self._fixed.append(_digest(secret))
        self._watch = FileWatch(file)
        self._look_at = 0.0
        self._digests = self._fixed + self._read()

    def __bool__(self) -> bool:
        return bool(self._digests)

    def include(self, secret: str) -> bool:
        """Whether this is one of them. How long that takes tells nothing about them but their number."""
        if self._file:
            self._refresh()
        digest = _digest(secret)
        found = False
        for each in self._digests:
            found |= hmac.compare_digest(each, digest)
        return found

    def _refresh(self) -> None:
        """Once a second at most: read the file again if it has changed. One that cannot be used is told once,
        and changes nothing."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY_S
        if not self._watch.changed():
            return
        try:
            self._digests = self._fixed + self._read()
        except StartError as error:
            _log.warning("The secrets of before stay: %s", error)
        else:
            _log.info("--%s: %d secrets are taken again from %s", self._flag, len(self._digests), self._file)

    def _read(self) -> list[bytes]:
        if not self._file:
            return []
        try:
            lines = Path(self._file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            cause = (error.strerror if isinstance(error, OSError) else None) or "no UTF-8 text"
            raise StartError(f"--{self._flag}: {self._file} cannot be read: {cause}.") from None
        digests = []
        for number, line in enumerate(lines, 1):
            secret = line.strip()
            if not secret or secret.startswith("#"):
                continue
            if not _can_be_sent(secret):
                raise StartError(
                    f"--{self._flag}: line {number} of {self._file} is no visible ASCII text without blanks."
                )
            digests.append(_digest(secret))
        if not digests:
            raise StartError(f"--{self._flag}: {self._file} is empty. Write one secret in each line.")
        return digests


class ApiKeys:
    """Lets a request in if it has a key. Without: liveness, readiness, and that of a model that it can name.

    Those are for probes of Kubernetes, whose headers cannot come from a Secret. Everything else needs a
    key, paths that do not exist and handlers of the user's own among it.

    Args:
        secrets: the keys.
    """

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    def admitted(self, method: str, target: str, fields: Mapping[str, str]) -> Mapping[str, str] | None:
        """The fields of a request without the key that lets it in, which is no business of the model's.

        Args:
            method: of the request.
            target: of the request: path and query.
            fields: its headers by lower-case name; not changed.

        Returns:
            ``None``: it is to be refused.
        """
        used = [
            name
            for name, secret in (
                ("authorization", bearer_token(fields.get("authorization", ""))),
                ("x-api-key", fields.get("x-api-key", "")),
            )
            if secret and self._secrets.include(secret)
        ]
        if used:
            return {name: value for name, value in fields.items() if name not in used}
        return fields if _is_open(method, target) else None


def _is_open(method: str, target: str) -> bool:
    """Whether a request needs no key: the probes of V1 and V2."""
    return method == "GET" and _OPEN.fullmatch(target.partition("?")[0]) is not None


class AdminGuard:
    """Lets a request for administrators in: from this machine, with a token, and not out of a browser.

    A page that a browser on this machine shows can send requests here, and its host name can be made to
    mean 127.0.0.1 (DNS rebinding). So what only a browser sends is refused, and names that are not this
    machine's own are, too.

    Args:
        tokens: each as good as the other.
    """

    def __init__(self, tokens: Secrets) -> None:
        self._tokens = tokens

    def check(self, request: httputil.HTTPServerRequest) -> None:
        """Let a request in, or not.

        Raises:
            HTTPError: 403 for where it comes from, 401 for its token, 415 for a body that is said to be no
                JSON. One that nothing is said of is let in: a browser that sends such tells where it comes
                from, too, and has no token.
        """
        headers = request.headers
        _check_place(request.remote_ip or "", headers)
        if "Origin" in headers or headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise web.HTTPError(403, reason="Administrative calls are not taken from browsers.")
        if _host_name(headers.get("Host", "")) not in _LOCAL_NAMES:
            raise web.HTTPError(403, reason="Administrative calls name the host as localhost or 127.0.0.1.")
        self._check_token(headers.get("Authorization", ""))
        media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type not in ("", "application/json"):
            raise web.HTTPError(415, reason="Administrative calls have an application/json body, or none.")

    def check_call(self, remote_ip: str, fields: Mapping[str, str]) -> None:
        """Let a gRPC call in, or not. No page in a browser can make one.

        Args:
            remote_ip: its client's address.
            fields: its metadata by lower-case name.

        Raises:
            HTTPError: 403 for where it comes from, 401 for its token.
        """
        _check_place(remote_ip, fields)
        self._check_token(fields.get("authorization", ""))

    def _check_token(self, authorization: str) -> None:
        if not self._tokens.include(bearer_token(authorization)):
            raise web.HTTPError(401, reason="An admin token is needed: send `Authorization: Bearer TOKEN`.")


class AdminHandler(JsonHandler):
    """What a handler of administrative calls derives from. Where they are not enabled, there is no such path.

    A ``prepare`` of its own calls this one first, and ends if ``_finished`` is true then.
    """

    def prepare(self) -> None:
        """Let the request in, or answer 401, 403, 404 or 415."""
        guard: AdminGuard | None = getattr(self.application, "admin_guard", None)
        if guard is None:
            self.send(Answer(404, encode_error("invalid path")))
            return
        try:
            guard.check(self.request)
        except web.HTTPError as error:
            if error.status_code == 401:
                self.set_header("WWW-Authenticate", "Bearer")
            self.send(error_answer(error, "administrative call"))


@dataclass(frozen=True)
class Access:
    """Who may ask what of a server; by default anybody anything, and there are no administrative calls."""

    api_keys: ApiKeys | None = None
    admin_guard: AdminGuard | None = None

    @classmethod
    def of(cls, settings: Settings, environ: Mapping[str, str] | None = None) -> Access:
        """As the settings and the environment say.

        Raises:
            StartError: secrets that cannot be used, or administrative calls without a token.
        """
        environ = os.environ if environ is None else environ
        keys = Secrets("api_key_file", settings.api_key_file, API_KEY, environ)
        guard = None
        if settings.enable_admin:
            tokens = Secrets("admin_token_file", settings.admin_token_file, ADMIN_TOKEN, environ)
            if not tokens:
                raise StartError(
                    "--enable_admin needs a token: name a file that holds one with --admin_token_file, or "
                    f"set {ADMIN_TOKEN}."
                )
            guard = AdminGuard(tokens)
        return cls(ApiKeys(keys) if keys else None, guard)


def bearer_token(authorization: str) -> str:
    """The token in an ``Authorization`` header; empty: there is none.

    >>> bearer_token("bearer  abc")
    'abc'
    """
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _can_be_sent(secret: str) -> bool:
    return bool(secret) and secret.isascii() and secret.isprintable() and " " not in secret


def _check_place(remote_ip: str, headers: Mapping[str, str]) -> None:
    if not _is_loopback(remote_ip) or any(name in headers for name in _FORWARDED):
        raise web.HTTPError(403, reason="Administrative calls are taken from this machine only.")


def _is_loopback(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)  # a client of an IPv6 socket that came by IPv4
    return (mapped or ip).is_loopback


def _host_name(host: str) -> str:
    """A Host header without its port, in lower case."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdecimal() else host).lower()

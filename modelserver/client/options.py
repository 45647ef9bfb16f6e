"""What both clients are told when they are made.

Rules of the room: values; no I/O but to read certificates.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from modelserver.client.dialects import V1, V2
from modelserver.client.http_messages import Endpoint, checked

ProtocolName = Literal["v1", "v2", "v2-json"]


@dataclass(frozen=True)
class Options:
    """The arguments of ``Client`` and ``AsyncClient``, checked.

    Attributes:
        endpoint: where the server is.
        protocol: that is spoken.
        timeout_s: for a call that names no other.
        retries: tries after the first.
        headers: for all requests, the API key among them.
        ca_file: certificates that are trusted; empty: those of the system.
    """

    endpoint: Endpoint
    protocol: ProtocolName
    timeout_s: float
    retries: int
    headers: Mapping[str, str]
    ca_file: str

    @classmethod
    def of(
        cls,
        url: str,
        protocol: ProtocolName,
        timeout_s: float,
        retries: int,
        headers: Mapping[str, str] | None,
        api_key: str,
        ca_file: str | Path,
    ) -> Options:
        """Check them.

        Raises:
            ValueError: one cannot be used.
        """
        endpoint = Endpoint.of(url)
        allowed = ("v2",) if endpoint.is_grpc else ("v1", "v2", "v2-json")
        if protocol not in allowed:
            raise ValueError(f"protocol is {protocol!r}, expected one of {', '.join(allowed)} for {url}")
        if not timeout_s > 0:
            raise ValueError(f"timeout is {timeout_s!r} and must be more than 0 seconds")
        sent = dict(headers or {})
        if api_key:
            sent["Authorization"] = f"Bearer {api_key}"
        return cls(endpoint, protocol, timeout_s, retries, checked(sent, endpoint.is_grpc), str(ca_file))

    def dialect(self) -> V1 | V2:
        """What knows the protocol.

        Raises:
            StartError: what gRPC needs is not installed.
        """
        url = self.endpoint.url
        if self.endpoint.is_grpc:
            from modelserver.client.grpc_dialect import V2Grpc  # protobuf is optional

            return V2Grpc(url)
        return V1(url) if self.protocol == "v1" else V2(url, binary=self.protocol == "v2")

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """For connections; ``None``: they are not encrypted.

        Raises:
            ValueError: ``ca_file`` holds no certificates.
        """
        if not self.endpoint.is_encrypted:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file or None)
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror or error
            raise ValueError(f"ca_file {self.ca_file} cannot be read as certificates: {reason}") from error

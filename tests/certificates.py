"""Certificates for tests, signed by themselves, made by the program ``openssl``."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate for localhost and 127.0.0.1, and its key, as PEM files."""

    certfile: Path
    keyfile: Path

    @property
    def flags(self) -> list[str]:
        """The server's."""
        return ["--ssl_certfile", str(self.certfile), "--ssl_keyfile", str(self.keyfile)]

    def client(self) -> ssl.SSLContext:
        """What trusts this certificate and no other."""
        return ssl.create_default_context(cafile=str(self.certfile))

    def replace(self, other: Pair) -> None:
        """Put another pair in the place of this one, each file at once."""
        for mine, theirs in ((self.keyfile, other.keyfile), (self.certfile, other.certfile)):
            aside = mine.with_suffix(".new")
            aside.write_bytes(theirs.read_bytes())
            aside.replace(mine)


def make(folder: Path, name: str = "server") -> Pair:
    """Make a certificate ``name.crt`` and its key ``name.key``."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} "
        f"-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -out {pair.certfile} -keyout {pair.keyfile}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return pair


def encrypted(pair: Pair) -> Path:
    """The pair's key behind a password."""
    path = pair.keyfile.with_suffix(".encrypted")
    command = f"openssl pkey -aes256 -passout pass:secret -in {pair.keyfile} -out {path}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return path

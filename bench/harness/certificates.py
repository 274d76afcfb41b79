"""Certificates for servers and callers of this machine, made by the openssl program."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.harness.child_process import require_program

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
_THIS_MACHINE = "subjectAltName=DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates, in a folder of its own. `ca` is its own certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = Certificate(folder / "ca.crt", folder / "ca.key")
        _make("authority", self._own)

    @property
    def ca(self) -> Path:
        return self._own.cert

    def sign(self, common_name: str) -> Certificate:
        """Writes a certificate and its key. A second one of the same name takes the first one's place."""
        made = Certificate(self._folder / f"{common_name}.crt", self._folder / f"{common_name}.key")
        new = Certificate(made.cert.with_suffix(".crt.new"), made.key.with_suffix(".key.new"))
        signer = ("-CA", str(self._own.cert), "-CAkey", str(self._own.key), "-addext", _THIS_MACHINE)
        _make(common_name, new, *signer)
        new.key.replace(made.key)
        new.cert.replace(made.cert)
        return made


def _make(common_name: str, made: Certificate, *signer: str) -> None:
    files = ("-keyout", str(made.key), "-out", str(made.cert))
    command = [require_program("openssl"), "req", "-x509", *_NEW_KEY, *files, "-subj", f"/CN={common_name}", *signer]
    subprocess.run(command, check=True, capture_output=True)

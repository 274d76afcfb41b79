"""The server's certificate and key, and the certificates that sign those of callers: PEM, from files.

The same files serve gRPC and HTTP. Handshakes that begin after a change use the new ones; open connections stay.
"""

import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from carousel.identity.watched_files import WatchedFiles
from carousel.records import record


@record(frozen=True, slots=True)
class CertificateFiles:
    """`client_ca` is None where callers need no certificate."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> list[Path]:
        return [self.cert, self.key] + ([self.client_ca] if self.client_ca else [])


@record(frozen=True, slots=True)
class Certificate:
    """What the files hold: PEM as it was read, the same for HTTP, and the last second of the server's own. HTTP has two
    contexts: one for operators, whose probes have no certificate, and one for callers."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    operators: ssl.SSLContext
    callers: ssl.SSLContext
    valid_until: float  # seconds since 1970


def watch_certificate(files: CertificateFiles, reloaded: Callable[[str, bool], None]) -> WatchedFiles[Certificate]:
    """Raises SettingsInvalid where the files are missing, are no PEM or do not belong together."""
    return WatchedFiles("tls_cert", files.paths, lambda: read_certificate(files), reloaded)


def read_certificate(files: CertificateFiles) -> Certificate:
    """Raises ValueError or OSError, with the file and the reason."""
    chain, key = files.cert.read_bytes(), files.key.read_bytes()
    leaf = _parse_chain(chain, files.cert)
    if leaf.public_key() != _parse_key(key, files.key).public_key():
        raise ValueError(f"{files.key} is not the key of the certificate in {files.cert}")
    client_ca = files.client_ca.read_bytes() if files.client_ca else None
    if client_ca is not None:
        _parse_chain(client_ca, files.client_ca)
    operators, callers = _make_context(files, ssl.CERT_OPTIONAL), _make_context(files, ssl.CERT_REQUIRED)
    return Certificate(chain, key, client_ca, operators, callers, leaf.not_valid_after_utc.timestamp())


def http_context(watched: WatchedFiles[Certificate], *, for_callers: bool = False) -> ssl.SSLContext:
    """For a listening socket: each handshake takes the context of the files as they are then. Where callers need a
    certificate, one `for_callers` demands it; the other asks for it, and what needs an identity looks at it."""

    def current() -> ssl.SSLContext:
        return watched.current.callers if for_callers else watched.current.operators

    def choose(connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        connection.context = current()

    context = current()
    context.sni_callback = choose
    return context


def _make_context(files: CertificateFiles, verify_mode: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    if files.client_ca:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = verify_mode
    return context


def _parse_chain(pem: bytes, path: Path | None) -> x509.Certificate:
    """The first certificate of at least one."""
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except ValueError as error:
        raise ValueError(f"{path} holds no PEM certificate") from error


def _parse_key(pem: bytes, path: Path) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise ValueError(f"{path} holds no PEM private key without a password") from error

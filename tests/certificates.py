"""Certificates of our own making: an authority, and what it signs."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates; `pem` is its own."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        builder = _builder(self._name, self._name, self._key.public_key()).add_extension(constraint, critical=True)
        self.pem = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def sign(self, common_name: str, *, uris: tuple[str, ...] = (), days: int = 1) -> tuple[bytes, bytes]:
        """PEM of a certificate for this machine under `common_name`, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        alternatives = x509.SubjectAlternativeName([*names, *map(x509.UniformResourceIdentifier, uris)])
        builder = _builder(_name(common_name), self._name, key.public_key(), days).add_extension(
            alternatives, critical=False
        )
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return certificate, _key_pem(key)

    def write(self, folder: Path, common_name: str = "server", **options: int) -> tuple[Path, Path]:
        """Writes a certificate and its key, each in place of the one before; returns where they are."""
        certificate, key = self.sign(common_name, **options)  # type: ignore[arg-type]
        paths = folder / f"{common_name}.crt", folder / f"{common_name}.key"
        for path, pem in zip(paths, (certificate, key), strict=True):
            replace(path, pem)
        return paths

    def write_own(self, folder: Path) -> Path:
        path = folder / "ca.crt"
        replace(path, self.pem)
        return path


def replace(path: Path, content: bytes) -> None:
    """Writes beside it and renames: whoever reads sees the old content or the new one."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(content)
    beside.replace(path)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int = 1
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * _DAY)
        .not_valid_after(now + days * _DAY)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

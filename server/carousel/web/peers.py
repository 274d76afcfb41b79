"""What the HTTP side knows of a caller. uvicorn does not pass on the certificate of a connection, so this adds it."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from carousel.identity.doorkeeper import Evidence, name_subjects

_SUBJECTS = "carousel.subjects"  # in the scope of each request
_ABORT = "carousel.abort"  # so too


class CertificateProtocol(H11Protocol):
    """uvicorn's protocol. Each request's scope has the names in the certificate that the connection was opened with,
    and what closes the connection at once."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert()  # empty, too, for one that was not checked
        subjects, app = read_subjects(certificate) if certificate else (), self.app

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, _SUBJECTS: subjects, _ABORT: transport.abort}, receive, send)

        self.app = answer


def collect_evidence(request: Request) -> Evidence:
    """The peer has the form that gRPC gives it: both transports count wrong attempts together."""
    subjects: Sequence[str] = request.scope.get(_SUBJECTS, ())
    return Evidence(request.headers.items(), _peer_of(request), lambda: subjects)


def abort(request: Request) -> None:
    """Closes the request's connection without waiting for what is unread."""
    if (close := request.scope.get(_ABORT)) is not None:
        close()


def read_subjects(certificate: Mapping[str, Any]) -> Sequence[str]:
    """Takes what SSLObject.getpeercert returns."""
    uris = (value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI")
    parts = (part for parts in certificate.get("subject", ()) for part in parts)
    return name_subjects(uris, [value for key, value in parts if key == "commonName"])


def _peer_of(request: Request) -> str:
    if request.client is None:
        return ""
    host, port = request.client
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"

"""The server's certificate as gRPC takes it: asked for at each handshake."""

import grpc

from carousel.identity.certificates import Certificate
from carousel.identity.watched_files import WatchedFiles


def grpc_credentials(watched: WatchedFiles[Certificate]) -> grpc.ServerCredentials:
    """Asked at each handshake, on a thread of gRPC's. Callers need a certificate where files name who signs it."""
    used = watched.current

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        if watched.current is used:
            return None
        used = watched.current
        return _configuration(used)

    needs_certificate = used.client_ca is not None
    return grpc.dynamic_ssl_server_credentials(_configuration(used), fetch, needs_certificate)


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificate.key, certificate.chain)], root_certificates=certificate.client_ca
    )

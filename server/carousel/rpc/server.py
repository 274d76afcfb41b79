"""The gRPC server: our services, health and reflection on one port. It knows the port that it got."""

import errno
import socket
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from carousel.errors import SettingsInvalid
from carousel.identity.certificates import Certificate
from carousel.identity.watched_files import WatchedFiles
from carousel.rpc import health
from carousel.rpc.credentials import grpc_credentials
from carousel.rpc.reading import Admit, OthersMethods, OurMethods
from carousel.rpc.servicer import LanguageModelServicer
from carousel.rpc.session_servicer import SessionsServicer
from carousel.settings import Settings, split_address
from carousel.v1 import language_model_pb2, language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc

_SERVICES = (
    language_model_pb2.DESCRIPTOR.services_by_name["LanguageModel"].full_name,
    sessions_pb2.DESCRIPTOR.services_by_name["Sessions"].full_name,
)
_UNCOUNTED_STREAMS = 20  # of one connection, besides health watches: reflection, GetModel
_MOST = 2**31 - 1  # the largest value of an option


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """The bounds on connections: their number, what each may bring, and when a dead or idle connection is closed."""

    max_message_bytes: int
    max_streams: int  # of one connection; beyond it, HTTP/2 makes the client wait
    keepalive_seconds: float  # between pings on a silent connection
    keepalive_timeout_seconds: float  # a ping unanswered for this long closes the connection
    max_connections: int
    handshake_seconds: float  # until HTTP/2 has begun
    idle_seconds: float  # without a call
    max_health_watches: int  # of one connection

    @classmethod
    def of(cls, settings: Settings) -> "ConnectionBounds":
        counted = settings.max_streams + settings.reserved_streams + settings.max_health_watches
        return cls(
            max_message_bytes=settings.max_message_bytes,
            max_streams=counted + _UNCOUNTED_STREAMS,
            keepalive_seconds=settings.keepalive_seconds,
            keepalive_timeout_seconds=settings.keepalive_timeout_seconds,
            max_connections=settings.max_connections,
            handshake_seconds=settings.handshake_seconds,
            idle_seconds=settings.connection_idle_seconds,
            max_health_watches=settings.max_health_watches,
        )


class RpcServer:
    """The server. After `start` it is bound and serves; its health is NOT_SERVING until `set_ready`."""

    def __init__(
        self,
        language_model: LanguageModelServicer,
        sessions: SessionsServicer,
        admit: Admit,
        bounds: ConnectionBounds,
        *,
        shares_port: bool = False,
    ) -> None:
        """`admit` is asked before each call of health and reflection. With `shares_port`, other processes of the same
        user may listen there too; otherwise a second server is a mistake and is refused."""
        self._server = grpc.aio.server(options=[*_options(bounds), ("grpc.so_reuseport", int(shares_port))])
        self._health = health.HealthServicer(bounds.max_health_watches)
        ours, others = OurMethods(self._server), OthersMethods(self._server, admit)
        language_model_pb2_grpc.add_LanguageModelServicer_to_server(language_model, ours)
        sessions_pb2_grpc.add_SessionsServicer_to_server(sessions, ours)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, others)
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), others)
        self.address = ""  # host:port, once started

    async def start(self, listen: str, certificate: WatchedFiles[Certificate] | None = None) -> None:
        """Binds the address and serves, encrypted if there is a certificate. Raises SettingsInvalid when the address
        cannot be bound."""
        await self.set_ready(is_ready=False)
        host, number = split_address(listen)
        try:
            port = (
                self._server.add_insecure_port(listen)
                if certificate is None
                else self._server.add_secure_port(listen, grpc_credentials(certificate))
            )
        except RuntimeError as error:
            raise SettingsInvalid(f"listen: cannot bind {listen}: {_explain_refusal(host, number)}") from error
        await self._server.start()
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def set_ready(self, *, is_ready: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if is_ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *_SERVICES):
            self._health.set(service, status)

    async def stop(self, grace_seconds: float) -> None:
        """Accepts no more calls, and cancels the calls that are still open after the grace."""
        await self._server.stop(grace_seconds)


def _explain_refusal(host: str, port: int) -> str:
    """Returns why an address cannot be bound. The library does not say it, so this binds again to get the reason."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return "another server is there" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return "it was not free"


def _options(bounds: ConnectionBounds) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", bounds.max_message_bytes),
        ("grpc.max_concurrent_streams", min(bounds.max_streams, _MOST)),
        ("grpc.max_allowed_incoming_connections", bounds.max_connections),
        ("grpc.server_handshake_timeout_ms", _milliseconds(bounds.handshake_seconds)),
        ("grpc.max_connection_idle_ms", _milliseconds(bounds.idle_seconds)),
        ("grpc.keepalive_time_ms", _milliseconds(bounds.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", _milliseconds(bounds.keepalive_timeout_seconds)),
        # While another ping is open, no keepalive ping is sent, and the other ping may take a minute.
        ("grpc.http2.ping_timeout_ms", _milliseconds(bounds.keepalive_timeout_seconds)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def _milliseconds(seconds: float) -> int:
    return min(int(seconds * 1000), _MOST)

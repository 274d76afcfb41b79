"""The systems under chaos: servers, a store, a balancer, and the disturbances that are allowed."""

import asyncio
import contextlib
import functools
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.harness.certificates import Authority
from bench.harness.child_process import Process, find_program, free_ports, redis_command, require_program
from bench.harness.server_process import CAROUSEL
from trials.clocks import find_library, shifted_clock
from trials.plans import OWNER_KEY, TlsOf

from carousel.client import Tls

CLOCKS_APART_SECONDS = 600
_LEASE_SECONDS = 3
_PRINCIPALS = """
[[principal]]
name = "balancer"
certificates = ["balancer"]
scopes = ["generate", "score", "sessions"]
forwards = true
"""


@dataclass(frozen=True, slots=True)
class Replica:
    """How every server of a world is started. Each writes its own log file in `logs`, where given."""

    bundle: Path
    idle_seconds: float
    logs: Path | None = None
    program: tuple[str, ...] = CAROUSEL
    clocks_apart_seconds: int = CLOCKS_APART_SECONDS  # where there are two

    def process(
        self, ports: tuple[int, int], settings: dict[str, str], variables: dict[str, str] | None = None
    ) -> Process:
        """Returns a server on one port for gRPC and one for HTTP."""
        grpc_port, http_port = ports
        command = [*self.program, "serve", str(self.bundle), "--listen", f"127.0.0.1:{grpc_port}"]
        command += ["--http", f"127.0.0.1:{http_port}"]
        common = {"session_idle_seconds": str(self.idle_seconds), "owner_metadata": OWNER_KEY}
        for name, value in (common | settings).items():
            command += ["--set", f"{name}={value}"]
        log = self.logs / f"server-{grpc_port}.log" if self.logs is not None else None
        return Process(command, grpc_port, variables, log)


class World:
    """Servers, and their possible disturbances. `address` is for clients."""

    address: str
    tls: TlsOf | None = None
    disturbances: list[Callable[[], Awaitable[None]]]
    _processes: list[Process]  # in the order in which they start

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        try:
            for process in self._processes:
                process.start()
                process.wait_until_listening()
            yield
        finally:
            for process in self._processes:
                process.end()


class SqliteWorld(World):
    """One server on one file."""

    def __init__(self, replica: Replica, directory: Path) -> None:
        grpc_port, http_port = free_ports(2)
        server = replica.process((grpc_port, http_port), {"store": f"sqlite:{directory / 'sessions.db'}"})
        self.address = f"127.0.0.1:{grpc_port}"
        self._processes = [server]
        self.disturbances = [server.kill_and_restart]


class RedisWorld(World):
    """Two replicas with different clocks, one Redis that writes before it answers, one load balancer."""

    configuration = "haproxy.cfg"

    def __init__(self, replica: Replica, directory: Path) -> None:
        redis_port, balancer_port, *ports = free_ports(6)
        settings = {"store": f"redis://127.0.0.1:{redis_port}/0", "lease_seconds": str(_LEASE_SECONDS)}
        settings |= self.secure(directory)
        redis = Process(redis_command(redis_port, directory), redis_port)
        replicas = [
            replica.process((ports[0], ports[1]), settings),
            replica.process((ports[2], ports[3]), settings, shifted_clock(replica.clocks_apart_seconds)),
        ]
        self.address = f"127.0.0.1:{balancer_port}"
        variables = self.variables | _balancer_variables(self.address, ports)
        balancer = Process(_balancer_command(self.configuration), balancer_port, variables)
        self._processes = [redis, *replicas, balancer]
        self.disturbances = [
            *(one.kill_and_restart for one in replicas),
            *(one.pause for one in replicas),
            lambda: redis.kill_and_restart(signal.SIGTERM),
            redis.kill_and_restart,
        ]

    def secure(self, directory: Path) -> dict[str, str]:
        """Returns the servers' settings for encryption and identity."""
        self.variables: dict[str, str] = {}
        return {}


class MtlsWorld(RedisWorld):
    """The same with certificates between all of them. The servers believe the balancer's word for whom it calls; their
    certificates are replaced while they run."""

    configuration = "haproxy-tls.cfg"

    def __init__(self, replica: Replica, directory: Path) -> None:
        super().__init__(replica, directory)
        self.disturbances.append(self._replace_certificates)

    def secure(self, directory: Path) -> dict[str, str]:
        folder = directory / "certificates"
        self._authority = Authority(folder)
        server, balancer = map(self._authority.sign, ("server", "balancer"))
        pair = folder / "balancer.pem"
        pair.write_bytes(balancer.cert.read_bytes() + balancer.key.read_bytes())
        principals = folder / "principals.toml"
        principals.write_text(_PRINCIPALS, encoding="utf-8")
        self.variables = {"CAROUSEL_PAIR": str(pair), "CAROUSEL_CA": str(self._authority.ca)}
        self.variables["CAROUSEL_NAME"] = "localhost"
        self.tls = functools.cache(self._sign_for)
        files = {"tls_cert": server.cert, "tls_key": server.key, "tls_client_ca": self._authority.ca}
        return {name: str(path) for name, path in (files | {"principals": principals}).items()}

    def _sign_for(self, owner: str) -> Tls:
        """The balancer reads the owner's name from the certificate."""
        signed = self._authority.sign(owner)
        return Tls(self._authority.ca, signed.cert, signed.key)

    async def _replace_certificates(self) -> None:
        await asyncio.to_thread(self._authority.sign, "server")


WORLDS: dict[str, Callable[[Replica, Path], World]] = {"redis": RedisWorld, "sqlite": SqliteWorld, "mtls": MtlsWorld}


def has_programs_of_redis_world() -> bool:
    return all(find_program(name) for name in ("redis-server", "haproxy")) and find_library() is not None


def _balancer_command(configuration: str) -> list[str]:
    return [require_program("haproxy"), "-db", "-f", str(Path(__file__).parents[1] / "deploy" / configuration)]


def _balancer_variables(address: str, ports: list[int]) -> dict[str, str]:
    names = ("CAROUSEL_A_GRPC", "CAROUSEL_A_HTTP", "CAROUSEL_B_GRPC", "CAROUSEL_B_HTTP")
    hosts = {"CAROUSEL_BIND": address, "CAROUSEL_A": "127.0.0.1", "CAROUSEL_B": "127.0.0.1"}
    return hosts | dict(zip(names, map(str, ports), strict=True))

"""The systems under chaos: servers, a store, a balancer, and the disturbances that are allowed."""

import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.harness.child_process import Process, find_program, free_ports, redis_command, require_program
from bench.harness.server_process import CAROUSEL
from trials.clocks import find_library, shifted_clock
from trials.plans import OWNER_KEY

CLOCKS_APART_SECONDS = 600
_LEASE_SECONDS = 3


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

    def __init__(self, replica: Replica, directory: Path) -> None:
        redis_port, balancer_port, *ports = free_ports(6)
        settings = {"store": f"redis://127.0.0.1:{redis_port}/0", "lease_seconds": str(_LEASE_SECONDS)}
        redis = Process(redis_command(redis_port, directory), redis_port)
        replicas = [
            replica.process((ports[0], ports[1]), settings),
            replica.process((ports[2], ports[3]), settings, shifted_clock(replica.clocks_apart_seconds)),
        ]
        self.address = f"127.0.0.1:{balancer_port}"
        balancer = Process(_balancer_command(), balancer_port, _balancer_variables(self.address, ports))
        self._processes = [redis, *replicas, balancer]
        self.disturbances = [
            *(one.kill_and_restart for one in replicas),
            *(one.pause for one in replicas),
            lambda: redis.kill_and_restart(signal.SIGTERM),
            redis.kill_and_restart,
        ]


WORLDS: dict[str, Callable[[Replica, Path], World]] = {"redis": RedisWorld, "sqlite": SqliteWorld}


def has_programs_of_redis_world() -> bool:
    return all(find_program(name) for name in ("redis-server", "haproxy")) and find_library() is not None


def _balancer_command() -> list[str]:
    return [require_program("haproxy"), "-db", "-f", str(Path(__file__).parents[1] / "deploy" / "haproxy.cfg")]


def _balancer_variables(address: str, ports: list[int]) -> dict[str, str]:
    names = ("CAROUSEL_A_GRPC", "CAROUSEL_A_HTTP", "CAROUSEL_B_GRPC", "CAROUSEL_B_HTTP")
    hosts = {"CAROUSEL_BIND": address, "CAROUSEL_A": "127.0.0.1", "CAROUSEL_B": "127.0.0.1"}
    return hosts | dict(zip(names, map(str, ports), strict=True))

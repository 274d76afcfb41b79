"""Kills, pauses and restarts under load, and a checker that nothing acknowledged was lost, doubled or different.

    python -m trials.chaos [redis] [sqlite] [--seed N] [--sessions 64] [--turns 100]

redis: two replicas behind HAProxy with one Redis; replicas are killed, paused beyond their lease and started again,
Redis is restarted. sqlite: one server that is killed with SIGKILL and started again on its file.
"""

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench.child_process import Process, free_ports, redis_command, require_program
from bench.reference_models import SIZES, write_reference_bundle
from bench.report import print_figure, print_machine
from bench.server_process import serve
from trials.chaos_clients import History, Plan, compare, run_clients

SECONDS_BETWEEN = (2.0, 5.0)
LEASE_SECONDS = "3"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", choices=["redis", "sqlite", []], help="default: both")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--turns", type=int, default=100)
    given = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        bundle = write_reference_bundle("small", directory)
        plan = Plan(given.seed, given.sessions, given.turns, SIZES["small"][2], 0.6, is_disturbed=True)
        undisturbed = run_undisturbed(bundle, plan)
        worlds = {"redis": RedisWorld, "sqlite": SqliteWorld}
        is_clean = [
            run_disturbed(store, worlds[store](bundle, directory), plan, undisturbed)
            for store in given.stores or list(worlds)
        ]
    sys.exit(0 if all(is_clean) else 1)


def run_undisturbed(bundle: Path, plan: Plan) -> list[History]:
    """The same turns on one quiet server, in memory."""
    quiet = replace(plan, is_disturbed=False, pause_seconds=0.0)
    with serve(bundle) as server:
        return asyncio.run(run_clients(server.grpc_address, quiet))


def run_disturbed(store: str, world: "World", plan: Plan, undisturbed: list[History]) -> bool:
    """Prints the figures; whether nothing was lost, doubled or different."""
    with world.running():
        histories, num_kills = disturb(world, plan)
    for history in histories:
        if history.trouble:
            print(f"a client gave up: {history.trouble}", file=sys.stderr)
    totals = compare(histories, undisturbed) | {"kills": num_kills, "seed": plan.seed}
    for name in ("seed", "turns", "kills", "retries"):
        print_figure(f"chaos.{store}.{name}", totals[name], "count")
    for name in ("lost", "doubled", "different"):
        print_figure(f"chaos.{store}.{name}", totals[name], "count", at_most=0)
    return not (totals["lost"] or totals["doubled"] or totals["different"])


def disturb(world: "World", plan: Plan) -> tuple[list[History], int]:
    """Run the clients while things happen to the world's servers; what they were told, and how many things happened."""
    return asyncio.run(_disturb(world, plan))


async def _disturb(world: "World", plan: Plan) -> tuple[list[History], int]:
    dice = random.Random(f"{plan.seed} disturbances")
    clients = asyncio.create_task(run_clients(world.address, plan))
    num_kills = 0
    while not clients.done():
        await asyncio.wait([clients], timeout=dice.uniform(*SECONDS_BETWEEN))
        if clients.done():
            break
        await dice.choice(world.disturbances())()
        num_kills += 1
    return await clients, num_kills


class World:
    """Servers, and what may happen to them. `address` is where clients go."""

    address: str

    def processes(self) -> list[Process]:
        """In the order in which they start."""
        return self._processes

    def disturbances(self) -> list[Callable[[], Awaitable[None]]]:
        return self._disturbances

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        try:
            for process in self.processes():
                process.start()
                process.wait_until_listening()
            yield
        finally:
            for process in self.processes():
                process.end()

    _processes: list[Process]
    _disturbances: list[Callable[[], Awaitable[None]]]


class RedisWorld(World):
    """Two replicas, one Redis that writes before it answers, one load balancer."""

    def __init__(self, bundle: Path, directory: Path) -> None:
        redis_port, balancer_port, *ports = free_ports(6)
        store = f"store=redis://127.0.0.1:{redis_port}/0"
        redis = Process(redis_command(redis_port, directory), redis_port)
        replicas = [
            _replica(bundle, grpc_port, http_port, "--set", store, "--set", f"lease_seconds={LEASE_SECONDS}")
            for grpc_port, http_port in (ports[:2], ports[2:])
        ]
        self.address = f"127.0.0.1:{balancer_port}"
        balancer = Process(_balancer_command(), balancer_port, _balancer_variables(self.address, ports))
        self._processes = [redis, *replicas, balancer]
        self._disturbances = [
            *(replica.kill_and_restart for replica in replicas),
            *(replica.pause for replica in replicas),
            lambda: redis.kill_and_restart(signal.SIGTERM),
            redis.kill_and_restart,
        ]


class SqliteWorld(World):
    """One server on one file."""

    def __init__(self, bundle: Path, directory: Path) -> None:
        grpc_port, http_port = free_ports(2)
        server = _replica(bundle, grpc_port, http_port, "--set", f"store=sqlite:{directory / 'sessions.db'}")
        self.address = f"127.0.0.1:{grpc_port}"
        self._processes = [server]
        self._disturbances = [server.kill_and_restart]


def _replica(bundle: Path, grpc_port: int, http_port: int, *options: str) -> Process:
    command = [sys.executable, "-m", "carousel", "serve", str(bundle), "--listen", f"127.0.0.1:{grpc_port}"]
    return Process([*command, "--http", f"127.0.0.1:{http_port}", *options], grpc_port)


def _balancer_command() -> list[str]:
    return [require_program("haproxy"), "-db", "-f", str(Path(__file__).parents[1] / "deploy" / "haproxy.cfg")]


def _balancer_variables(address: str, ports: list[int]) -> dict[str, str]:
    names = ("CAROUSEL_A_GRPC", "CAROUSEL_A_HTTP", "CAROUSEL_B_GRPC", "CAROUSEL_B_HTTP")
    hosts = {"CAROUSEL_BIND": address, "CAROUSEL_A": "127.0.0.1", "CAROUSEL_B": "127.0.0.1"}
    return hosts | dict(zip(names, map(str, ports), strict=True))


if __name__ == "__main__":
    main()

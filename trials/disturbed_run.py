"""Runs all clients at once while servers are disturbed, then the same turns on a quiet server."""

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.harness.server_process import serve
from trials.checker import check, count_different, unbroken
from trials.dropping_proxy import dropping
from trials.histories import History
from trials.library import run_asyncio, run_blocking
from trials.lifecycles import run_lifecycles
from trials.overlapping import run_overlapping
from trials.plans import ClientKind, Plan, TlsOf, Way
from trials.replay import replay
from trials.shared_streams import run_shared
from trials.stepwise import run_forgetful, run_stepwise
from trials.worlds import Replica, World

KINDS: dict[str, ClientKind] = {
    "stepwise": run_stepwise,
    "blocking": run_blocking,
    "asyncio": run_asyncio,
    "overlapping": run_overlapping,
    "lifecycles": run_lifecycles,
    "shared": run_shared,
    "forgetful": run_forgetful,
}
SECONDS_BETWEEN = (2.0, 5.0)

Disturbance = Callable[[], Awaitable[None]]


def run_and_check(
    world: World, plan: Plan, crowd: Mapping[str, int], replica: Replica
) -> tuple[list[History], Counter[str]]:
    """Returns the histories and the totals by name: those of `check`, `different`, `kills` and `drops`."""
    with world.running():
        histories, happened = asyncio.run(_disturb(world, plan, crowd))
    totals = check(histories, plan.idle_seconds) + happened
    totals["different"] = count_different_in(histories, replica)
    return histories, totals


def count_different_in(histories: Sequence[History], replica: Replica) -> int:
    """Counts answers that a quiet server with its sessions in memory does not give."""
    lines = [unbroken(line) for history in histories for line in history.lines]
    with serve(replica.bundle, program=replica.program) as server:
        repeated = asyncio.run(replay(server.grpc_address, lines))
    return sum(count_different(line, other) for line, other in zip(lines, repeated, strict=True))


async def _disturb(world: World, plan: Plan, crowd: Mapping[str, int]) -> tuple[list[History], Counter[str]]:
    dice = random.Random(f"{plan.seed} disturbances")
    happened: Counter[str] = Counter()
    async with dropping(world.address, random.Random(f"{plan.seed} drops")) as dropper:
        clients = asyncio.create_task(run_clients([world.address, dropper.address], plan, crowd, world.tls))
        try:
            while not (await asyncio.wait([clients], timeout=dice.uniform(*SECONDS_BETWEEN)))[0]:
                await dice.choice(world.disturbances)()
                happened["kills"] += 1
        finally:
            clients.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                histories = await clients
        happened["drops"] = dropper.num_drops
    return histories, happened


async def run_clients(
    addresses: Sequence[str], plan: Plan, crowd: Mapping[str, int], tls: TlsOf | None = None
) -> list[History]:
    """`crowd` holds the number of clients of each kind. All owners choose the same ids; clients get the addresses in
    turn."""
    threads = ThreadPoolExecutor(max_workers=crowd.get("blocking", 0) + 8)
    asyncio.get_running_loop().set_default_executor(threads)  # which the disturbances use too, as long as the loop runs
    ways = _ways(addresses, plan, crowd, tls)
    return await asyncio.gather(*(_run_client(kind, way, plan) for kind, way in ways))


def _ways(
    addresses: Sequence[str], plan: Plan, crowd: Mapping[str, int], tls: TlsOf | None
) -> Iterator[tuple[str, Way]]:
    run = uuid.uuid4().hex[:8]  # so that a store that was used before does not matter
    for kind, count in crowd.items():
        for number in range(count):
            pair, owner = divmod(number, plan.num_owners)
            yield (
                kind,
                Way(addresses[pair % len(addresses)], f"owner-{owner}", f"{kind}-{pair}-{run}", tls),
            )


async def _run_client(kind: str, way: Way, plan: Plan) -> History:
    dice = random.Random(f"{plan.seed} {kind} {way.owner} {way.session_id.rpartition('-')[0]}")
    try:
        return await KINDS[kind](way, plan, dice)
    except Exception as error:  # of the client itself, or of the library: never what the servers answer
        return History(kind, trouble=repr(error))

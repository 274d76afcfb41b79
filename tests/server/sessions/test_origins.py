"""A fork knows the session that it came from, for as long as it lives."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.sessions.held_streams import Stream
from tests.server.sessions.paired_stores import STORES
from tests.server.sessions.session_calls import NOW, feed
from tests.server.state.conftest import run_redis
from tests.worlds import Plan, World, running_world

from carousel.sessions.ledger import Origin
from carousel.sessions.operations import Point

LONG_ID = "x" * 128


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plan(kind: str, tmp_path: Path) -> Iterator[Plan]:
    """A world on a store of the kind. Another world of the same plan finds what is kept."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(run_redis(tmp_path)).url if kind == "redis" else ""
        (tmp_path / "held").mkdir()
        yield Plan(store=lambda clock: STORES[kind](tmp_path / "held", url, clock))


async def origin(world: World, session_id: str) -> Origin | None:
    return (await world.operations.history("ann", session_id)).origin


async def test_a_fork_tells_its_origin(plan: Plan) -> None:
    """Whatever happens to it afterwards, on every store: turns, held or not, a checkpoint, a rewind, its parent's end.
    One that takes the parent's id has another incarnation."""
    async with running_world(plan) as world:
        parent = await world.open()
        await feed(world, 1, 2)
        await feed(world, 3)
        await world.operations.fork("ann", "s", Point(2), ("t",), 0)
        wanted = Origin("s", parent.incarnation, 2)
        assert await origin(world, "t") == wanted
        assert await origin(world, "s") is None
        await feed(world, 4, session_id="t")
        await world.operations.mark("ann", "t", "c")
        await world.operations.rewind("ann", "t", Point(2), None)
        stream = Stream(world, "t")
        for token in (1, 2, 3):
            await stream.say(token)
        assert await origin(world, "t") == wanted
        await stream.talk.close()
        await world.operations.delete("ann", "s")
        assert (await world.open()).incarnation != wanted.incarnation
        assert await origin(world, "t") == wanted


async def test_a_forks_fork_has_the_fork_as_its_origin(plan: Plan) -> None:
    """All that one call makes have the same, and so has a repeat of it."""
    async with running_world(plan) as world:
        await world.open()
        (middle,) = await world.operations.fork("ann", "s", NOW, ("t",), 0, "r")
        await feed(world, 1, session_id="t")
        for _ in range(2):
            rows = await world.operations.fork("ann", "t", NOW, ("x", "y"), 0, "again")
            assert [row.id for row in rows] == ["x", "y"]
        for name in ("x", "y"):
            assert await origin(world, name) == Origin("t", middle.incarnation, 1)


@pytest.mark.parametrize("kind", ["sqlite", "write behind", "redis"])
async def test_it_outlives_the_process(plan: Plan) -> None:
    """Where sessions do."""
    async with running_world(plan) as world:
        parent = await world.open()
        await world.operations.fork("ann", "s", NOW, ("t",), 0)
    async with running_world(plan) as world:
        await feed(world, 1, session_id="t")
        assert await origin(world, "t") == Origin("s", parent.incarnation, 0)


async def test_what_is_created_or_imported_has_none() -> None:
    """Not even the copy of a fork: a sealed state may come from anywhere."""
    async with running_world() as world:
        await world.open()
        await world.operations.fork("ann", "s", NOW, ("t",), 0)
        sealed, _ = await world.operations.export("ann", "t", NOW, 9)
        await world.operations.import_state("ann", sealed, "u")
        assert await origin(world, "u") is None


async def test_it_takes_few_bytes() -> None:
    """They are counted like all that a session keeps, and bounded by the length of ids."""
    async with running_world() as world:
        await world.open(LONG_ID)
        await world.operations.fork("ann", LONG_ID, NOW, ("t",), 0)
        parts = (await world.hold("t")).parts
        assert {name: len(part) for name, part in parts.items() if not name.startswith("at/")} == {"origin": 144}

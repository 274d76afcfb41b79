"""A session has an id of its owner's choice or one that nobody can guess, and strangers learn nothing of it."""

import pytest
from tests.fakes import Fault, FaultyStore
from tests.server.sessions.session_calls import NOW, faulty_plan, refusal
from tests.worlds import running_world

from carousel.errors import InvalidRequest, SessionExists, SessionNotFound
from carousel.sessions import deeds

BAD_NAMES = ["", "a b", "x" * 129, "a/b", "é", "a\n", "{a}", "a\0"]


async def test_made_ids_are_unguessable() -> None:
    """Ids that are made have 128 bits or more and are all different."""
    async with running_world() as world:
        ids = [(await world.open("")).id for _ in range(5)]
        assert len(set(ids)) == 5
        assert all(len(one) * 6 >= 128 for one in ids)


@pytest.mark.parametrize("session_id", ["a", "x" * 128, "A-z_0.9~"])
async def test_a_caller_may_choose_an_id(session_id: str) -> None:
    """A well-formed id is taken as it is, once for each owner, and does not show whether others have it."""
    async with running_world() as world:
        assert (await world.open(session_id)).id == session_id
        with pytest.raises(SessionExists):
            await world.open(session_id)
        assert (await world.open(session_id, "bob")).owner == "bob"
        await world.operations.delete("bob", session_id)
        assert (await world.operations.get("ann", session_id)).owner == "ann"


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_malformed_name_is_refused(name: str) -> None:
    """This holds for a session (where empty asks for an id), a fork and a checkpoint; nothing is made."""
    async with running_world() as world:
        await world.open()
        with pytest.raises(InvalidRequest, match="^checkpoint: "):
            await world.operations.mark("ann", "s", name)
        if name:
            with pytest.raises(InvalidRequest, match="^session_id: "):
                await world.open(name)
            with pytest.raises(InvalidRequest, match="^new_session_ids: "):
                await world.operations.fork("ann", "s", NOW, ("fine", name), 0)
        assert await world.store.num_live() == 1
        assert (await world.operations.history("ann", "s")).marks == {}


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_what_can_be_no_id_reaches_no_store(name: str) -> None:
    """The session is not found, although the store would fail if it were asked."""
    async with running_world(faulty_plan()) as world:
        assert isinstance(world.store, FaultyStore)
        world.store.faults[Fault.READ] = world.store.faults[Fault.ACQUIRE] = 99
        assert isinstance(await refusal(world, "ann", name), SessionNotFound)


async def test_a_foreign_session_is_as_unknown() -> None:
    """A stranger gets the same answer for a live, an ended and an unknown session."""
    async with running_world() as world:
        unknown = await refusal(world, "bob", "t")
        await world.open()
        living = await refusal(world, "bob", "s")
        await world.operations.delete("ann", "s")
        ended = await refusal(world, "bob", "s")
        assert type(unknown) is type(living) is type(ended) is SessionNotFound
        assert str(unknown)[:-1] + "s" == str(living) == str(ended)
        assert unknown.details == living.details == ended.details


async def test_an_id_that_was_made_for_a_request_is_its_own() -> None:
    """Every server makes the same id; another owner's or another request's id differs."""
    async with running_world() as here, running_world() as there:
        made = [
            (await world.operations.create(owner, "", world.engine.start_snapshot, request_id)).id
            for world in (here, there)
            for owner, request_id in (("ann", "r"), ("ann", "q"), ("bob", "r"))
        ]
        assert made[:3] == made[3:]
        assert len(set(made)) == 3
        assert all(len(one) * 6 >= 128 for one in made)


def test_made_ids_are_no_options_of_a_command_line() -> None:
    """One in sixty-four would otherwise begin with a dash."""
    derived = [deeds.derive_id("ann", "r", number) for number in range(1000)]
    drawn = [deeds.draw_id() for _ in range(1000)]
    assert not [one for one in (*derived, *drawn) if one.startswith("-")]
    assert len({*derived, *drawn}) == 2000
    assert all(len(one) == 24 for one in (*derived, *drawn))

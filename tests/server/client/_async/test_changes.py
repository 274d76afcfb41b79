"""Calls that create, move and end sessions take effect once, however often they are sent."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.server.client._async.conftest import Naps
from tests.server.fake_service import STOPPING, FakeService, Mishap

from carousel.client import AsyncClient, AsyncSession, ServerError
from carousel.errors import AnswerGone, PositionMismatch

LOST = Mishap(is_applied=True)  # what was asked for is done, and nobody is told

BY_ID: list[Callable[..., Any]] = [
    lambda client, **options: client.create_session("new", **options),
    lambda client, **options: client.import_session(b"at 0", "new", **options),
    lambda client, **options: client.fork_session("mine", new_ids=["x", "y"], **options),
    lambda client, **options: client.rewind_session("mine", position=0, expected_position=0, **options),
    lambda client, **options: client.save_checkpoint("mine", "here", **options),
    lambda client, **options: client.delete_session("mine", **options),
]
OF_SESSION: list[Callable[..., Any]] = [
    lambda session, **options: session.fork(new_ids=["x", "y"], **options),
    lambda session, **options: session.rewind(position=0, expected_position=0, **options),
    lambda session, **options: session.checkpoint("here", **options),
    lambda session, **options: session.delete(**options),
]


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("change", BY_ID)
async def test_a_change_by_id_is_repeated_as_it_was(
    client: AsyncClient, service: FakeService, change: Callable[..., Any]
) -> None:
    """After a lost answer or an outage, the client sends the same request with the same new id, and gets the first
    answer."""
    service.mishaps = [LOST, Mishap(), Mishap(error=STOPPING), None]
    answer = await change(client)
    assert service.mishaps == []
    _check_one_id(service.changes[1:])
    assert getattr(answer, "position", 0) == 0
    assert set(service.positions) <= {"mine", "new", "x", "y"}


@pytest.mark.parametrize("change", OF_SESSION)
async def test_a_sessions_change_is_repeated_as_it_was(
    session: AsyncSession, service: FakeService, change: Callable[..., Any]
) -> None:
    """Works as by id."""
    service.mishaps = [LOST, Mishap(), Mishap(error=STOPPING), None]
    await change(session)
    assert service.mishaps == []
    _check_one_id(service.changes[1:])


def _check_one_id(requests: list[Any]) -> None:
    assert len(requests) == 4
    assert all(request == requests[0] for request in requests)
    assert uuid.UUID(requests[0].request_id).version == 4


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("change", BY_ID)
async def test_a_change_by_id_can_bring_its_own(
    client: AsyncClient, service: FakeService, change: Callable[..., Any]
) -> None:
    """Another process can then retry the call; an empty id counts as none."""
    await change(client, request_id="own", timeout_seconds=10)
    await change(client, request_id="own")
    assert [request.request_id for request in service.changes[1:]] == ["own", "own"]
    service.mishaps = [Mishap(error=AnswerGone("stop here"))]
    with pytest.raises(ServerError, match="stop here"):
        await change(client, request_id="")
    assert uuid.UUID(service.changes[-1].request_id)


@pytest.mark.parametrize("change", OF_SESSION)
async def test_a_sessions_change_can_bring_its_own(
    session: AsyncSession, service: FakeService, change: Callable[..., Any]
) -> None:
    """Works as by id."""
    await change(session, request_id="own", timeout_seconds=10)
    await change(session, request_id="own")
    assert [request.request_id for request in service.changes[1:]] == ["own", "own"]


async def test_each_change_has_an_id_of_its_own(
    client: AsyncClient, session: AsyncSession, service: FakeService
) -> None:
    """Two equal calls are two changes."""
    for _ in range(2):
        await session.fork()
        await session.rewind(position=0)
        await session.checkpoint("here")
        await client.fork_session("mine")
    assert len({request.request_id for request in service.changes}) == 9
    assert len(service.positions) == 5


async def test_an_id_used_for_something_else_is_refused(session: AsyncSession) -> None:
    """This holds for changes that create sessions and for those that move one."""
    await session.checkpoint("here", request_id="one")
    await session.fork(new_ids=["x"], request_id="two")
    for misuse in (
        lambda: session.rewind(position=0, request_id="one"),
        lambda: session.fork(new_ids=["y"], request_id="two"),
    ):
        with pytest.raises(ServerError) as caught:
            await misuse()
        assert caught.value.violations[0].field == "request_id"


async def test_a_lost_fork_gives_the_copies_that_were_made(session: AsyncSession, service: FakeService) -> None:
    """They are at the position of the first attempt, and no other copies exist."""
    await session.feed("ab")
    service.mishaps = [LOST]
    forks = await session.fork(2)
    assert {fork.session_id for fork in forks} | {"mine"} == set(service.positions)
    assert [fork.position for fork in forks] == [2, 2]


async def test_a_repeated_rewind_undoes_nothing_that_came_later(
    client: AsyncClient, session: AsyncSession, service: FakeService, naps: Naps
) -> None:
    """Another caller advances the session between the rewind and its retry: that turn stays."""
    await session.feed("abc")
    service.mishaps = [LOST]
    naps.meanwhile = [lambda: client.open_session("mine").feed("de")]
    assert await session.rewind(position=0) == 0
    assert service.positions == {"mine": 2}
    with pytest.raises(ServerError) as caught:
        await session.feed("f")
    assert (caught.value.reason, caught.value.position) == ("POSITION_MISMATCH", 2)


async def test_a_repeated_delete_ends_no_session_made_later(
    client: AsyncClient, session: AsyncSession, service: FakeService, naps: Naps
) -> None:
    """The id is used again between the deletion and its retry."""
    service.mishaps = [LOST]
    naps.meanwhile = [lambda: client.create_session("mine")]
    await session.delete()
    assert service.positions == {"mine": 0}


async def test_a_session_deleted_twice_is_an_error(session: AsyncSession) -> None:
    """The second deletion is not a retry of the first."""
    await session.delete()
    with pytest.raises(ServerError) as caught:
        await session.delete()
    assert (caught.value.reason, caught.value.ending) == ("SESSION_DELETED", "deleted")
    assert caught.value.ended_at is not None
    assert caught.value.ended_at.isoformat() == "2023-11-14T22:13:20.250000+00:00"


async def test_a_rewind_expects_the_position_that_it_is_told(
    client: AsyncClient, session: AsyncSession, service: FakeService
) -> None:
    """At another position it is refused with the position in the error; the session keeps its expectation."""
    await session.feed("ab")
    for rewind in (session.rewind, lambda **where: client.rewind_session("mine", **where)):
        with pytest.raises(ServerError) as caught:
            await rewind(position=0, expected_position=1)
        assert (caught.value.reason, caught.value.position) == ("POSITION_MISMATCH", 2)
    assert session.position == service.positions["mine"] == 2
    assert await session.rewind(position=0, expected_position=2) == session.position == 0


async def test_forks_start_at_the_point_that_is_named(client: AsyncClient, session: AsyncSession) -> None:
    """A fork accepts a position or a checkpoint of the past, by session and by id; both at once are refused."""
    await session.feed("ab")
    await session.checkpoint("two")
    await session.feed("c")
    forks: list[Any] = [
        *await session.fork(position=2),
        *await session.fork(checkpoint="two"),
        *await client.fork_session("mine", position=2),
        *await client.fork_session("mine", checkpoint="two"),
        *await client.fork_session("mine", 2),
    ]
    assert [fork.position for fork in forks] == [2, 2, 2, 2, 3, 3]
    with pytest.raises(ValueError, match="not both"):
        await session.fork(position=2, checkpoint="two")


async def test_a_rewind_whose_answer_is_gone_leaves_the_position_known(
    session: AsyncSession, service: FakeService, naps: Naps
) -> None:
    """The rewind was applied; the error contains the session's position."""
    await session.feed("ab")
    service.mishaps = [LOST]

    async def forget() -> None:
        service.forget_answers()

    naps.meanwhile = [forget]
    with pytest.raises(ServerError) as caught:
        await session.rewind(position=0)
    assert (caught.value.reason, caught.value.position) == ("ANSWER_GONE", 0)
    assert await session.feed("c") == session.position == 1
    assert service.requests[-1].expected_position == 0


async def test_a_failed_rewind_leaves_the_expectation(session: AsyncSession, service: FakeService) -> None:
    """If the rewind was applied after all, the next turn is refused and reports that."""
    await session.feed("ab")
    service.mishaps = [Mishap(error=PositionMismatch(1, 9))]
    with pytest.raises(ServerError, match="not 1"):
        await session.rewind(position=0)
    assert session.position == 2


async def test_a_rewind_beside_a_turn_leaves_the_position_unknown(
    session: AsyncSession, service: FakeService, naps: Naps
) -> None:
    """Their order is unknown: the turn expects nothing, and neither does the next one."""
    await session.feed("ab")
    service.mishaps = [LOST]
    naps.meanwhile = [lambda: session.feed("c")]
    assert await session.rewind(position=0) == 0
    assert session.position is None
    assert await session.feed("d") == session.position == 2
    assert [request.HasField("expected_position") for request in service.requests[-2:]] == [False, False]


async def test_an_answer_from_before_a_turn_is_not_believed(
    session: AsyncSession, service: FakeService, naps: Naps
) -> None:
    """The reported position is older than the turn's end; the client expects the turn's position."""
    await session.feed("ab")
    service.mishaps = [LOST]
    naps.meanwhile = [lambda: session.feed("c")]
    assert await session.checkpoint("here") == 2
    assert session.position == 3
    assert await session.feed("d") == 4
    assert service.requests[-1].expected_position == 3


async def test_a_position_told_during_a_turn_is_not_believed(session: AsyncSession) -> None:
    """A position requested while a turn ran is ignored too."""
    stream = session.generate("a", max_tokens=1)
    assert (await session.get()).position in (0, 2)
    assert session.position is None
    await stream.close()
    assert (await session.get()).position == session.position


async def test_a_session_moves_through_its_past(
    client: AsyncClient, session: AsyncSession, service: FakeService
) -> None:
    """Checkpoint, fork, rewind, history, export and import work from the session and are retried."""
    await session.feed("ab")
    assert await session.checkpoint("start") == 2
    await session.feed("cd")
    service.mishaps = [Mishap(), None, Mishap(error=STOPPING)]
    forks = await session.fork(2, checkpoint="start")
    assert [fork.position for fork in forks] == [2, 2]
    assert await session.rewind(position=2) == session.position == 2
    assert await session.feed("e") == 3
    assert [one.session_id for one in await session.fork(new_ids=["x", "y"])] == ["x", "y"]
    history = await session.history()
    assert (history.positions, history.checkpoints) == ((0, 2, 3), {"start": 2})
    assert await session.rewind(checkpoint="start") == 2
    state = await session.export(timedelta(minutes=2), position=2)
    assert service.requests[-1].ttl.seconds == 120
    assert (await client.import_session(state, "copy")).position == 2
    assert await forks[0].feed("f") == 3
    assert await session.export(checkpoint="start") == b"at 2"
    assert await session.rewind(position=0) == 0
    assert await session.export() == await client.export_session("mine") == b"at 0"

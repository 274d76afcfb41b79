"""What makes, moves and ends sessions is done once, however often it is asked for; each test holds for both clients."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.server.client.conftest import Either, done
from tests.server.fake_service import STOPPING, FakeService, Mishap

from carousel.client import AsyncClient, ChangeOptions, Client, ServerError
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


@pytest.mark.parametrize("change", BY_ID)
async def test_a_change_by_id_is_repeated_as_it_was(
    either: Either, service: FakeService, change: Callable[..., Any]
) -> None:
    """A lost answer and a server that was away: the same request again, a fresh id in it, and the answer of a first."""
    await either.start()
    service.mishaps = [LOST, Mishap(), Mishap(error=STOPPING), None]
    answer = await done(change(either.client))
    assert service.mishaps == []
    _check_one_id(service.changes[1:])
    assert getattr(answer, "position", 0) == 0
    assert set(service.positions) <= {"mine", "new", "x", "y"}


@pytest.mark.parametrize("change", OF_SESSION)
async def test_a_sessions_change_is_repeated_as_it_was(
    either: Either, service: FakeService, change: Callable[..., Any]
) -> None:
    """As by id."""
    session = await either.start()
    service.mishaps = [LOST, Mishap(), Mishap(error=STOPPING), None]
    await done(change(session))
    assert service.mishaps == []
    _check_one_id(service.changes[1:])


def _check_one_id(requests: list[Any]) -> None:
    assert len(requests) == 4
    assert all(request == requests[0] for request in requests)
    assert uuid.UUID(requests[0].request_id).version == 4


@pytest.mark.parametrize("change", BY_ID)
async def test_a_change_by_id_can_bring_its_own(
    either: Either, service: FakeService, change: Callable[..., Any]
) -> None:
    """So that another process can repeat it; an empty one is none."""
    await either.start()
    await done(change(either.client, request_id="own", timeout_seconds=10))
    await done(change(either.client, request_id="own"))
    assert [request.request_id for request in service.changes[1:]] == ["own", "own"]
    service.mishaps = [Mishap(error=AnswerGone("stop here"))]
    with pytest.raises(ServerError, match="stop here"):
        await done(change(either.client, request_id=""))
    assert uuid.UUID(service.changes[-1].request_id)


@pytest.mark.parametrize("change", OF_SESSION)
async def test_a_sessions_change_can_bring_its_own(
    either: Either, service: FakeService, change: Callable[..., Any]
) -> None:
    """As by id."""
    session = await either.start()
    await done(change(session, request_id="own", timeout_seconds=10))
    await done(change(session, request_id="own"))
    assert [request.request_id for request in service.changes[1:]] == ["own", "own"]


async def test_each_change_has_an_id_of_its_own(either: Either, service: FakeService) -> None:
    """Two calls that say the same are two changes."""
    session = await either.start()
    for _ in range(2):
        await done(session.fork())
        await done(session.rewind(position=0))
        await done(session.checkpoint("here"))
        await done(either.client.fork_session("mine"))
    assert len({request.request_id for request in service.changes}) == 9
    assert len(service.positions) == 5


async def test_an_id_used_for_something_else_is_refused(either: Either) -> None:
    """Whether by a change that makes sessions or by one that moves one."""
    session = await either.start()
    await done(session.checkpoint("here", request_id="one"))
    await done(session.fork(new_ids=["x"], request_id="two"))
    for misuse in (
        lambda: session.rewind(position=0, request_id="one"),
        lambda: session.fork(new_ids=["y"], request_id="two"),
    ):
        with pytest.raises(ServerError) as caught:
            await done(misuse())
        assert caught.value.violations[0].field == "request_id"


async def test_a_lost_fork_gives_the_copies_that_were_made(either: Either, service: FakeService) -> None:
    """They stand where they were made, and no others are left behind."""
    session = await either.start()
    await done(session.feed("ab"))
    service.mishaps = [LOST]
    forks = await done(session.fork(2))
    assert {fork.session_id for fork in forks} | {"mine"} == set(service.positions)
    assert [fork.position for fork in forks] == [2, 2]


async def test_a_repeated_rewind_undoes_nothing_that_came_later(either: Either, service: FakeService) -> None:
    """Somebody else moves on between the rewind and its repeat: his turn stays."""
    session = await either.start()
    await done(session.feed("abc"))
    service.mishaps = [LOST]
    either.meanwhile = [lambda: either.find("mine").feed("de")]
    assert await done(session.rewind(position=0)) == 0
    assert service.positions == {"mine": 2}
    with pytest.raises(ServerError) as caught:
        await done(session.feed("f"))
    assert (caught.value.reason, caught.value.position) == ("POSITION_MISMATCH", 2)


async def test_a_repeated_delete_ends_no_session_made_later(either: Either, service: FakeService) -> None:
    """The name is used again between the deletion and its repeat."""
    session = await either.start()
    service.mishaps = [LOST]
    either.meanwhile = [lambda: either.client.create_session("mine")]
    await done(session.delete())
    assert service.positions == {"mine": 0}


async def test_a_session_deleted_twice_is_an_error(either: Either) -> None:
    """The second deletion is no repeat of the first."""
    session = await either.start()
    await done(session.delete())
    with pytest.raises(ServerError) as caught:
        await done(session.delete())
    assert (caught.value.reason, caught.value.ending) == ("SESSION_DELETED", "deleted")
    assert caught.value.ended_at is not None
    assert caught.value.ended_at.isoformat() == "2023-11-14T22:13:20.250000+00:00"


async def test_a_rewind_expects_the_position_that_it_is_told(either: Either, service: FakeService) -> None:
    """Refused elsewhere, with the position in the error; the session still expects what it expected."""
    session = await either.start()
    await done(session.feed("ab"))
    for rewind in (session.rewind, lambda **where: either.client.rewind_session("mine", **where)):
        with pytest.raises(ServerError) as caught:
            await done(rewind(position=0, expected_position=1))
        assert (caught.value.reason, caught.value.position) == ("POSITION_MISMATCH", 2)
    assert session.position == service.positions["mine"] == 2
    assert await done(session.rewind(position=0, expected_position=2)) == session.position == 0


async def test_forks_start_at_the_point_that_is_named(either: Either) -> None:
    """A position or a checkpoint of the past, by session and by id; both at once make no sense."""
    session = await either.start()
    await done(session.feed("ab"))
    await done(session.checkpoint("two"))
    await done(session.feed("c"))
    forks = [
        *await done(session.fork(position=2)),
        *await done(session.fork(checkpoint="two")),
        *await done(either.client.fork_session("mine", position=2)),
        *await done(either.client.fork_session("mine", checkpoint="two")),
        *await done(either.client.fork_session("mine", 2)),
    ]
    assert [fork.position for fork in forks] == [2, 2, 2, 2, 3, 3]
    with pytest.raises(ValueError, match="not both"):
        await done(session.fork(position=2, checkpoint="two"))


async def test_a_rewind_whose_answer_is_gone_leaves_the_position_known(either: Either, service: FakeService) -> None:
    """It was done; where the session stands now, the error says."""
    session = await either.start()
    await done(session.feed("ab"))
    service.mishaps = [LOST]
    either.meanwhile = [service.forget_answers]
    with pytest.raises(ServerError) as caught:
        await done(session.rewind(position=0))
    assert (caught.value.reason, caught.value.position) == ("ANSWER_GONE", 0)
    assert await done(session.feed("c")) == session.position == 1
    assert service.requests[-1].expected_position == 0


async def test_a_failed_rewind_leaves_the_expectation(either: Either, service: FakeService) -> None:
    """Should it have been done after all, the next turn is refused and says so."""
    session = await either.start()
    await done(session.feed("ab"))
    service.mishaps = [Mishap(error=PositionMismatch(1, 9))]
    with pytest.raises(ServerError, match="not 1"):
        await done(session.rewind(position=0))
    assert session.position == 2


async def test_a_rewind_beside_a_turn_leaves_the_position_unknown(either: Either, service: FakeService) -> None:
    """Which came first is not known: the turn expects nothing, and neither does the next."""
    session = await either.start()
    await done(session.feed("ab"))
    service.mishaps = [LOST]
    either.meanwhile = [lambda: session.feed("c")]
    assert await done(session.rewind(position=0)) == 0
    assert session.position is None
    assert await done(session.feed("d")) == session.position == 2
    assert [request.HasField("expected_position") for request in service.requests[-2:]] == [False, False]


async def test_an_answer_from_before_a_turn_is_not_believed(either: Either, service: FakeService) -> None:
    """The position that is told is older than the turn's end; the turn's is the one that is expected."""
    session = await either.start()
    await done(session.feed("ab"))
    service.mishaps = [LOST]
    either.meanwhile = [lambda: session.feed("c")]
    assert await done(session.checkpoint("here")) == 2
    assert session.position == 3
    assert await done(session.feed("d")) == 4
    assert service.requests[-1].expected_position == 3


async def test_a_position_told_during_a_turn_is_not_believed(either: Either, service: FakeService) -> None:
    """Nor is one asked for while a turn ran."""
    session = await either.start()
    stream = session.generate("a", max_tokens=1)
    assert (await done(session.get())).position in (0, 2)
    assert session.position is None
    await done(stream.close())
    assert (await done(session.get())).position == session.position


async def test_a_session_moves_through_its_past(either: Either, service: FakeService) -> None:
    """Checkpoint, fork, rewind, history, export and import, each from the session and repeated when it fails."""
    session = await either.start()
    await done(session.feed("ab"))
    assert await done(session.checkpoint("start")) == 2
    await done(session.feed("cd"))
    service.mishaps = [Mishap(), None, Mishap(error=STOPPING)]
    forks = await done(session.fork(2, checkpoint="start"))
    assert [fork.position for fork in forks] == [2, 2]
    assert await done(session.rewind(position=2)) == session.position == 2
    assert await done(session.feed("e")) == 3
    assert [one.session_id for one in await done(session.fork(new_ids=["x", "y"]))] == ["x", "y"]
    history = await done(session.history())
    assert (history.positions, history.checkpoints) == ((0, 2, 3), {"start": 2})
    assert await done(session.rewind(checkpoint="start")) == 2
    state = await done(session.export(timedelta(minutes=2), position=2))
    assert service.requests[-1].ttl.seconds == 120
    assert (await done(either.client.import_session(state, "copy"))).position == 2
    assert await done(forks[0].feed("f")) == 3
    assert await done(session.export(checkpoint="start")) == b"at 2"
    assert await done(session.rewind(position=0)) == 0
    assert await done(session.export()) == await done(either.client.export_session("mine")) == b"at 0"


async def test_a_session_is_made_under_the_callers_id(fake: tuple[str, FakeService]) -> None:
    """The block's options are its creation's; when that is a repeat, the session stands where it stands."""
    address, service = fake
    options = ChangeOptions(request_id="own", timeout_seconds=9)
    with Client(address) as client, client.session("a", model="m", keep=True, **options) as one:
        one.feed("xy")
    async with AsyncClient(address) as other, other.session("a", model="m", **options) as two:
        assert two.position == 2
        assert await two.feed("z") == 3
    made = [request for request in service.changes if request.request_id == "own"]
    assert [(request.session_id, request.model) for request in made] == [("a", "m")] * 2
    assert service.positions == {}

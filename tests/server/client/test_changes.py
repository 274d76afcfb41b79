"""What makes, moves and ends sessions is done once, however often it is asked for."""

from datetime import timedelta

import pytest
from tests.server.fake_service import STOPPING, FakeService, Mishap

from carousel.client import (
    AsyncClient,
    Client,
    ServerError,
)


def test_a_delete_whose_answer_was_lost_has_happened(patient: Client, service: FakeService) -> None:
    """The repeat finds the session deleted, which is what was asked for; a second deletion is an error."""
    with patient.session() as session:
        service.mishaps = [Mishap(is_applied=True)]
        session.delete()
        with pytest.raises(ServerError) as caught:
            session.delete()
    assert (caught.value.reason, caught.value.ending) == ("SESSION_DELETED", "deleted")
    assert caught.value.ended_at is not None
    assert caught.value.ended_at.isoformat() == "2023-11-14T22:13:20.250000+00:00"


def test_a_session_moves_through_its_past(patient: Client, service: FakeService) -> None:
    """Fork, checkpoint, rewind, history, export and import, each from the session and repeated when it fails."""
    with patient.session("mine") as session:
        session.feed("ab")
        assert session.checkpoint("start") == 2
        session.feed("cd")
        service.mishaps = [Mishap(), None, Mishap(error=STOPPING)]
        forks = session.fork(2, checkpoint="start")
        assert [fork.position for fork in forks] == [2, 2]
        assert session.rewind(position=2) == session.position == 2
        assert session.feed("e") == 3
        assert [one.session_id for one in session.fork(new_ids=["x", "y"])] == ["x", "y"]
        history = session.history()
        assert (history.positions, history.checkpoints) == ((0, 2, 3), {"start": 2})
        state = session.export(timedelta(minutes=2), position=2)
        assert service.requests[-1].ttl.seconds == 120
        assert patient.import_session(state, "copy").position == 2
        assert forks[0].feed("f") == 3
    with pytest.raises(ValueError, match="not both"):
        session.fork(position=2, checkpoint="start")


async def test_an_async_session_moves_through_its_past(fake: tuple[str, FakeService]) -> None:
    """The same moves, awaited."""
    async with AsyncClient(fake[0]) as client:
        async with client.session("mine") as session:
            await session.feed("ab")
            assert await session.checkpoint("start") == 2
            assert [fork.position for fork in await session.fork(2)] == [2, 2]
            await session.feed("cd")
            assert await session.rewind(checkpoint="start") == 2
            assert (await session.history()).checkpoints == {"start": 2}
            assert await session.export() == b"at 2"
            assert (await client.import_session(b"at 2", "copy")).position == 2
            assert [one.position for one in await client.fork_session("mine")] == [2]
            assert (await client.save_checkpoint("mine", "b")).position == 2
            assert (await client.rewind_session("mine", position=0)).position == 0
            assert (await client.get_history("mine")).session.position == 0
            assert await client.export_session("mine") == b"at 0"
        async with await client.watch() as events:
            kinds = [event.kind async for event in events]
        assert kinds[0] == "created"

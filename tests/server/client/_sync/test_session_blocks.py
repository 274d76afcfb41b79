# Generated from tests/server/client/_async/test_session_blocks.py by `make client`: change that file, not this one.
"""A session lives as long as its block."""

import pytest
from tests.server.client._sync.conftest import read
from tests.server.fake_service import FakeService

from carousel.client import Client, ServerError


def test_a_session_lives_as_long_as_its_block(client: Client, service: FakeService) -> None:
    """It is created at the start, carries its position over the calls, and is deleted at the end."""
    with client.session("mine") as session:
        assert session.feed("abc") == 3
        assert [piece.text for piece in read(session.generate("d", max_tokens=2))] == ["e", "f", ""]
        session.predict("ef", k=1)
        assert read(session.score("g"))
        with session.predictor() as predict:
            predict("h")
        assert (session.get()).position == session.position == 10
    assert service.positions == {}
    with pytest.raises(ServerError, match="deleted"):
        session.delete()


def test_a_kept_session_stays(client: Client, service: FakeService) -> None:
    """With keep=True the end of the block deletes nothing."""
    with client.session(keep=True) as session:
        session.feed("abc")
    assert service.positions == {session.session_id: 3}


def test_a_session_that_is_gone_does_not_hide_the_error(client: Client) -> None:
    """The block's own error is raised, also when the deletion at its end fails."""

    def fail_after_deleting() -> None:
        with client.session() as session:
            session.delete()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail_after_deleting()

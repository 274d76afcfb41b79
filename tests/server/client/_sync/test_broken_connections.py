# Generated from tests/server/client/_async/test_broken_connections.py by `make client`: change that file, not this one.
"""Calls whose connection breaks, by a bare code or by a misbehaving peer."""

import grpc
import pytest
from tests.server.client._sync.conftest import Naps
from tests.server.fake_service import FakeService, Mishap
from tests.server.hostile_peer import TRICKS, serve_hostile

from carousel.client import Client, ServerError, Session
from carousel.client.wires.blocking import WireOptions

BROKEN = ["CANCELLED", "INTERNAL", "UNAVAILABLE", "UNKNOWN"]
FINAL = [code for code in grpc.StatusCode if code.name not in ("OK", *BROKEN)]


@pytest.mark.parametrize("code", BROKEN)
def test_bare_codes_of_broken_connections_are_repeated(
    session: Session, service: FakeService, naps: Naps, code: str
) -> None:
    """The library retries turns, predictions and changes."""
    broken = Mishap(error=grpc.StatusCode[code])
    service.mishaps = [broken, None, broken, None, broken, None]
    assert session.feed("a") == 1
    assert (session.predict("b")).position == 2
    assert session.checkpoint("c") == 2
    assert len(naps.seconds) == 3


@pytest.mark.parametrize("code", FINAL)
def test_other_bare_codes_are_final(session: Session, service: FakeService, naps: Naps, code: grpc.StatusCode) -> None:
    """The same calls are made once."""
    for ask in (session.feed, session.predict, session.checkpoint):
        service.mishaps = [Mishap(error=code)] * 2  # a call of its own is refused likewise
        with pytest.raises(ServerError) as caught:
            ask("a")
        assert caught.value.code == code.name
    assert naps.seconds == []


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("turns", [("feed", "predict"), ("predict", "feed")])
def test_a_hostile_connection_is_a_broken_one(
    client: Client,
    address: str,
    service: FakeService,
    naps: Naps,
    of_wire: WireOptions,
    trick: str,
    turns: tuple[str, str],
) -> None:
    """However the peer breaks the calls, a stream's or a prediction's first: turns and change are done once, by the
    next connections."""
    client.create_session("mine")
    with serve_hostile(address, [trick] * 2) as peer:
        with Client(peer.address, sleep=naps, timeout_seconds=60, **of_wire) as shaky:
            session = shaky.open_session("mine", position=0)
            for number, turn in enumerate(turns):
                getattr(session, turn)("a")
                assert session.position == number + 1
            assert (shaky.rewind_session("mine", position=1)).position == 1
        assert peer.played == [trick] * 2
    assert service.positions == {"mine": 1}

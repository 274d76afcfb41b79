"""A sealed state continues on another server, for its owner alone."""

from datetime import timedelta
from pathlib import Path

import pytest
from tests.server_process import ServerProcess, serve
from tests.system.persistent_sessions import KEYS, SAMPLED, call_as, end_of, failure, ids_of

from carousel.client import Client

pytestmark = pytest.mark.slow


def test_a_session_moves_between_servers(bundle: Path, sealing: ServerProcess) -> None:
    """A state that is sealed on one server and opened on another with the same keys, even old ones, continues bit for
    bit."""
    keys = {"CAROUSEL_SEAL_KEYS": ",".join(reversed(KEYS)), "CAROUSEL_OWNER_METADATA": "x-owner"}
    with serve(bundle, variables=keys) as second, call_as(sealing, "ann") as here, call_as(second, "ann") as there:
        with here.session() as session:
            session.feed("The carousel ")
            state = session.export()
            moved = there.open_session(there.import_session(state, "moved").session_id)
            expected = list(session.generate(max_tokens=40, **SAMPLED))
            assert ids_of(moved.generate(max_tokens=40, **SAMPLED)) == ids_of(expected)
            assert moved.get().position == session.get().position == 53
            assert here.import_session(state).position == 13
        newer = there.export_session("moved")
        assert failure(lambda: here.import_session(newer)).details["why"] == "unknown_key"


def test_a_state_that_is_not_the_callers_is_refused(sealing: ServerProcess) -> None:
    """The state is altered, expired, another owner's or not a state: each has its own reason."""
    with call_as(sealing, "ann") as ann, call_as(sealing, "ben") as ben, ann.session() as session:
        session.feed("The ")
        state = session.export()
        middle = len(state) // 2
        altered = state[:middle] + bytes([state[middle] ^ 1]) + state[middle + 1 :]
        expired = session.export(timedelta(microseconds=1))
        refusals = {
            "altered": lambda: ann.import_session(altered),
            "expired": lambda: ann.import_session(expired),
            "foreign": lambda: ben.import_session(state),
            "not_a_state": lambda: ann.import_session(b"state"),
        }
        for why, attempt in refusals.items():
            error = failure(attempt)
            assert (error.code, error.reason, error.details["why"]) == ("FAILED_PRECONDITION", "STATE_REFUSED", why)
        assert failure(lambda: list(ben.generate("x", state=state))).details["why"] == "foreign"


def test_a_server_without_keys_seals_nothing(client: Client) -> None:
    """The error names what is missing."""
    with client.session() as session:
        error = failure(session.export)
    assert (error.reason, error.details["why"]) == ("STATE_REFUSED", "no_key")


def test_a_state_used_again_is_refused_where_that_is_the_rule(bundle: Path) -> None:
    """With seal_replay=refuse, each state can be used once."""
    rules = {"CAROUSEL_SEAL_KEYS": KEYS[0], "CAROUSEL_SEAL_REPLAY": "refuse"}
    with serve(bundle, variables=rules) as server, Client(server.grpc_address) as client, client.session() as session:
        state = session.export()
        client.import_session(state)
        assert failure(lambda: client.import_session(state)).details["why"] == "replayed"


def test_a_client_that_keeps_its_state_gets_what_a_session_gets(sealing: ServerProcess) -> None:
    """The server keeps nothing: generation, score and predictions continue in one chain, turn by turn."""
    with call_as(sealing, "ann") as client, client.session() as session:
        pieces = list(client.generate("The ", max_tokens=5, state=session.export(), **SAMPLED))
        assert ids_of(pieces) == ids_of(session.generate("The ", max_tokens=5, **SAMPLED))
        rated = list(client.score("horses", state=end_of(pieces).state))
        expected = list(session.score("horses"))
        assert [t for piece in rated for t in piece.tokens] == [t for piece in expected for t in piece.tokens]
        assert rated[-1].totals is not None
        assert rated[-1].totals.position == 15
        with client.predictor() as predict, session.predictor() as kept:
            first = predict(" and", state=rated[-1].totals.state)
            second = predict(" the")
            assert first.candidates == kept(" and").candidates
            assert second.candidates == kept(" the").candidates
        assert second.position == session.get().position == 23
        assert client.open_session(client.import_session(second.state).session_id).get().position == 23
        error = failure(lambda: list(client.generate(state=second.state, session_id=session.session_id)))
        assert [violation.field for violation in error.violations] == ["state"]

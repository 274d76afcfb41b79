"""Persistent sessions over a real port: turns that happen once, typed endings, moves through the past, and servers that
are killed or disconnected meanwhile."""

import base64
import contextlib
import itertools
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.server_process import ServerProcess, serve

from carousel.client import AsyncClient, Client, Finished, Piece, Retries, ServerError, Session, Stream

pytestmark = pytest.mark.slow

KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(2)]
SAMPLED: dict[str, Any] = {"temperature": 0.9, "seed": 7}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.grpc_address, timeout_seconds=60) as client:
        yield client


@pytest.fixture(scope="module")
def sealing(bundle: Path) -> Iterator[ServerProcess]:
    """A server that can seal, and identifies its callers by metadata."""
    with serve(bundle, variables={"CAROUSEL_SEAL_KEYS": KEYS[0], "CAROUSEL_OWNER_METADATA": "x-owner"}) as server:
        yield server


def _as(server: ServerProcess, owner: str) -> Client:
    return Client(server.grpc_address, timeout_seconds=60, metadata=[("x-owner", owner)])


def _ids(pieces: Iterable[Piece]) -> list[int]:
    return [token.id for piece in pieces for token in piece.tokens]


def _text(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _end(pieces: list[Piece]) -> Finished:
    end = pieces[-1].finished
    assert end is not None
    return end


def _failure(call: Callable[[], object]) -> ServerError:
    with pytest.raises(ServerError) as caught:
        call()
    return caught.value


def test_a_repeat_is_answered_word_for_word(client: Client) -> None:
    """Tokens, text, seed and log-probabilities are the first answer's; the session has moved once."""
    with client.session() as session:
        options: dict[str, Any] = {"session_id": session.session_id, "request_id": "one", "max_tokens": 20}
        first = list(client.generate("The ", num_log_probabilities=2, **options))
        again = list(client.generate("The ", num_log_probabilities=2, **options))
        assert [token for piece in first for token in piece.tokens] == [t for piece in again for t in piece.tokens]
        assert _text(first) == _text(again)
        assert (_end(first).is_replay, _end(again).is_replay) == (False, True)
        assert (_end(first).seed, _end(first).position) == (_end(again).seed, _end(again).position)
        assert session.get().position == _end(first).position == 24


def test_scores_and_predictions_are_repeated_word_for_word(client: Client) -> None:
    """All bits are equal, floats included."""
    with client.session() as session:
        id_ = session.session_id
        scores = [list(client.score("horses", session_id=id_, request_id="s")) for _ in range(2)]
        tokens = [[token for piece in pieces for token in piece.tokens] for pieces in scores]
        assert tokens[0] == tokens[1]
        assert [pieces[-1].totals is not None and pieces[-1].totals.is_replay for pieces in scores] == [False, True]
        guesses = [client.predict(" and", session_id=id_, request_id="p", word_prefix=" t") for _ in range(2)]
        assert guesses[0].candidates == guesses[1].candidates
        assert guesses[0].words == guesses[1].words
        assert [guess.is_replay for guess in guesses] == [False, True]
        assert session.get().position == guesses[1].position == 10


def test_a_repeat_joins_the_first_while_it_runs(client: Client) -> None:
    """Several at once get one answer, and the session moves once."""
    with client.session() as session, ThreadPoolExecutor(4) as pool:
        options: dict[str, Any] = {"session_id": session.session_id, "request_id": "same", "max_tokens": 400}
        first = client.generate("A ", **options)
        opening = next(first)
        rest = [pool.submit(lambda: list(client.generate("A ", **options))) for _ in range(4)]
        answers = [[opening, *first], *(one.result() for one in rest)]
        assert len({tuple(_ids(answer)) for answer in answers}) == 1
        assert sorted(_end(answer).is_replay for answer in answers) == [False, True, True, True, True]
        assert session.get().position == 402


def test_an_id_used_for_something_else_is_refused(client: Client) -> None:
    """This holds for another prompt and for another kind of request; nothing changes."""
    with client.session() as session:
        where: dict[str, Any] = {"session_id": session.session_id, "request_id": "one"}
        list(client.generate("The ", max_tokens=3, **where))
        for misuse in (
            lambda: list(client.generate("the ", max_tokens=3, **where)),
            lambda: list(client.score("The ", **where)),
        ):
            error = _failure(misuse)
            assert error.code == "INVALID_ARGUMENT"
            assert [violation.field for violation in error.violations] == ["request_id"]
        assert session.get().position == 7


def test_an_answer_too_large_to_keep_is_not_applied_twice(client: Client) -> None:
    """Its retry is refused with the reason, and changes nothing."""
    with client.session() as session:
        options: dict[str, Any] = {"session_id": session.session_id, "request_id": "long", "max_tokens": 3_000}
        list(client.generate("The ", **options))
        error = _failure(lambda: list(client.generate("The ", **options)))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "ANSWER_GONE")
        assert session.get().position == 3_004


def test_an_unexpected_position_is_refused_with_the_current_one(client: Client) -> None:
    """For every kind of turn and for a rewind; nothing changes."""
    with client.session() as session:
        session.feed("The ")
        where: dict[str, Any] = {"session_id": session.session_id, "expected_position": 3}
        for late in (
            lambda: list(client.generate("x", **where)),
            lambda: list(client.score("x", **where)),
            lambda: client.predict("x", **where),
            lambda: client.rewind_session(session.session_id, position=0, expected_position=3),
        ):
            error = _failure(late)
            assert (error.code, error.reason, error.position) == ("ABORTED", "POSITION_MISMATCH", 4)
        assert session.get().position == 4


def test_two_holders_of_a_session_do_not_overwrite_each_other(client: Client) -> None:
    """The holder that did not know of the other's turn gets an error, and continues after a `get`."""
    with client.session() as session:
        other = client.open_session(session.session_id, position=0)
        other.feed("The ")
        assert _failure(lambda: session.feed("A ")).position == 4
        session.get()
        assert session.feed("carousel") == 12


def test_a_deleted_session_says_so(client: Client) -> None:
    """NOT_FOUND as for an unknown session, but with how and when it ended, for its owner."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    with client.session() as session:
        session.delete()
        error = _failure(lambda: session.feed("x"))
    assert (error.code, error.reason, error.ending) == ("NOT_FOUND", "SESSION_DELETED", "deleted")
    assert error.ended_at is not None
    assert before <= error.ended_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert _failure(lambda: client.get_session("never")).reason == "SESSION_NOT_FOUND"


def test_an_unused_session_expires_and_says_so(bundle: Path) -> None:
    """The watcher gets the event, and a later caller gets the reason and the time."""
    with serve(bundle, "--set", "session_idle_seconds=0.2") as server, Client(server.grpc_address) as client:
        with client.watch(timeout_seconds=30) as events:
            made = client.create_session("short")
            assert [next(events).kind for _ in range(2)] == ["created", "expired"]
        error = _failure(lambda: list(client.generate("x", session_id=made.session_id)))
    assert (error.code, error.reason, error.ending) == ("FAILED_PRECONDITION", "SESSION_EXPIRED", "idle")
    assert error.ended_at is not None
    assert error.ended_at >= made.expire_time


def test_an_evicted_session_says_so(bundle: Path) -> None:
    """The longest unused session makes room, its watcher gets the event, and its owner gets the reason."""
    with serve(bundle, "--set", "max_sessions=2") as server, Client(server.grpc_address) as client:
        for name in ("old", "used"):
            client.create_session(name)
        list(client.generate("x", session_id="old", max_tokens=1))
        with client.watch(timeout_seconds=30) as events:
            client.create_session("new")
            seen = {(event.kind, event.session_id) for event in itertools.islice(events, 2)}
        assert seen == {("evicted", "used"), ("created", "new")}
        error = _failure(lambda: client.get_session("used"))
        assert (error.code, error.reason, error.ending) == ("FAILED_PRECONDITION", "SESSION_EVICTED", "evicted")
        assert {one.session_id for one in client.list_sessions()} == {"old", "new"}


def test_watchers_hear_of_their_own_sessions_alone(sealing: ServerProcess) -> None:
    """Other owners' events stay hidden."""
    with _as(sealing, "ann") as ann, _as(sealing, "ben") as ben, ann.watch(timeout_seconds=30) as events:
        with ben.session(), ann.session("hers"):
            pass
        assert [(event.kind, event.session_id) for event in itertools.islice(events, 2)] == [
            ("created", "hers"),
            ("deleted", "hers"),
        ]


def test_forks_go_on_as_the_original_would(client: Client) -> None:
    """Each copy gives the tokens of a new session with the same input, and no copy disturbs another."""
    with client.session() as session, client.session() as fresh:
        session.feed("The carousel ")
        session.checkpoint("start")
        session.feed("turns and ")
        forks = session.fork(3, checkpoint="start")
        fresh.feed("The carousel ")
        expected = _ids(fresh.generate("turns ", max_tokens=30, **SAMPLED))
        assert [_ids(fork.generate("turns ", max_tokens=30, **SAMPLED)) for fork in forks] == [expected] * 3
        assert session.get().position == len("The carousel turns and ")
        assert forks[0].get().position == fresh.get().position


def test_generating_again_from_here_needs_no_feeding(client: Client) -> None:
    """Back at a boundary, another seed gives the tokens that it gives in a new session, and the first seed gives its
    tokens again."""
    with client.session() as session:
        start = session.feed("The horses ")
        first = _ids(session.generate(max_tokens=30, **SAMPLED))
        answers = {7: first}
        for seed in (8, 7):
            assert session.rewind(position=start) == start
            pieces = list(session.generate(max_tokens=30, temperature=0.9, seed=seed))
            assert _end(pieces).num_input_tokens == 0
            assert answers.setdefault(seed, _ids(pieces)) == _ids(pieces)
        assert answers[8] != answers[7]
        with client.session() as fresh:
            fresh.feed("The horses ")
            assert _ids(fresh.generate(max_tokens=30, temperature=0.9, seed=8)) == answers[8]


def test_a_session_goes_back_to_retained_points_alone(client: Client) -> None:
    """Boundaries beyond the ring are gone, a checkpoint outlives them, and the refusal lists the available points."""
    with client.session() as session:
        session.checkpoint("start")
        for _ in range(12):
            session.feed("ab")
        history = session.history()
        assert history.positions[-1] == 24
        assert 2 not in history.positions
        error = _failure(lambda: session.rewind(position=2))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "POSITION_UNKNOWN")
        assert session.rewind(checkpoint="start") == 0
        assert session.history().positions == (0,)


def test_continuations_are_those_of_their_seeds(client: Client) -> None:
    """n branches give what n sessions give with seed, seed + 1, ...; the session continues the first."""
    with client.session() as session, client.session() as alone:
        pieces = list(session.generate("The ", max_tokens=25, n=4, **SAMPLED))
        assert [piece.branch for piece in pieces if piece.finished is not None][-1] == 0
        branches = [[piece for piece in pieces if piece.branch == number] for number in range(4)]
        start = alone.feed("The ")
        for number in (3, 2, 1, 0):
            alone.rewind(position=start)
            single = list(alone.generate(max_tokens=25, temperature=0.9, seed=7 + number))
            assert _ids(branches[number]) == _ids(single)
            assert _text(branches[number]) == _text(single)
            assert _end(branches[number]).seed == 7 + number
        assert session.get().position == alone.get().position == 29
        assert _ids(session.generate(max_tokens=9, **SAMPLED)) == _ids(alone.generate(max_tokens=9, **SAMPLED))


def test_a_session_moves_between_servers(bundle: Path, sealing: ServerProcess) -> None:
    """Sealed on one server and opened on another with the same keys, old ones included, it continues bit for bit."""
    keys = {"CAROUSEL_SEAL_KEYS": ",".join(reversed(KEYS)), "CAROUSEL_OWNER_METADATA": "x-owner"}
    with serve(bundle, variables=keys) as second, _as(sealing, "ann") as here, _as(second, "ann") as there:
        with here.session() as session:
            session.feed("The carousel ")
            state = session.export()
            moved = there.open_session(there.import_session(state, "moved").session_id)
            expected = list(session.generate(max_tokens=40, **SAMPLED))
            assert _ids(moved.generate(max_tokens=40, **SAMPLED)) == _ids(expected)
            assert moved.get().position == session.get().position == 53
            assert here.import_session(state).position == 13
        newer = there.export_session("moved")
        assert _failure(lambda: here.import_session(newer)).details["why"] == "unknown_key"


def test_a_state_that_is_not_the_callers_is_refused(sealing: ServerProcess) -> None:
    """The state is altered, expired, another owner's or not a state: each has its own reason."""
    with _as(sealing, "ann") as ann, _as(sealing, "ben") as ben, ann.session() as session:
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
            error = _failure(attempt)
            assert (error.code, error.reason, error.details["why"]) == ("FAILED_PRECONDITION", "STATE_REFUSED", why)
        assert _failure(lambda: list(ben.generate("x", state=state))).details["why"] == "foreign"


def test_a_server_without_keys_seals_nothing(client: Client) -> None:
    """The error names what is missing."""
    with client.session() as session:
        error = _failure(session.export)
    assert (error.reason, error.details["why"]) == ("STATE_REFUSED", "no_key")


def test_a_state_used_again_is_refused_where_that_is_the_rule(bundle: Path) -> None:
    """With seal_replay=refuse, each state can be used once."""
    rules = {"CAROUSEL_SEAL_KEYS": KEYS[0], "CAROUSEL_SEAL_REPLAY": "refuse"}
    with serve(bundle, variables=rules) as server, Client(server.grpc_address) as client, client.session() as session:
        state = session.export()
        client.import_session(state)
        assert _failure(lambda: client.import_session(state)).details["why"] == "replayed"


def test_a_client_that_keeps_its_state_gets_what_a_session_gets(sealing: ServerProcess) -> None:
    """Turn by turn, with the server keeping nothing: generation, score and predictions in one chain."""
    with _as(sealing, "ann") as client, client.session() as session:
        pieces = list(client.generate("The ", max_tokens=5, state=session.export(), **SAMPLED))
        assert _ids(pieces) == _ids(session.generate("The ", max_tokens=5, **SAMPLED))
        rated = list(client.score("horses", state=_end(pieces).state))
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
        error = _failure(lambda: list(client.generate(state=second.state, session_id=session.session_id)))
        assert [violation.field for violation in error.violations] == ["state"]


def test_a_stranger_cannot_tell_a_session_from_none(sealing: ServerProcess) -> None:
    """Every call on another owner's session fails as on an unknown one; so does one on an ended session of that
    owner."""
    with _as(sealing, "ann") as ann, _as(sealing, "ben") as ben, ann.session() as session, ann.session() as ended:
        ended.delete()
        for name in (session.session_id, ended.session_id):
            for attempt in (ben.get_session, ben.delete_session, ben.fork_session, ben.get_history, ben.export_session):
                error = _failure(partial(attempt, name))
                assert (error.code, error.reason, str(error)) == (
                    "NOT_FOUND",
                    "SESSION_NOT_FOUND",
                    f"there is no session {name}",
                )
        assert session.get().position == 0


@contextlib.contextmanager
def _cut_off(address: str, limits: list[int]) -> Iterator[tuple[str, list[int]]]:
    """Opens a proxy that breaks: each connection ends after the next limit's bytes from the server, later ones never.
    Yields its address, and the connections so far."""
    host, port = address.split(":")
    made: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as door, contextlib.ExitStack() as stack:

        def carry(source: socket.socket, target: socket.socket, limit: float) -> None:
            with contextlib.suppress(OSError):
                while limit > 0 and (content := source.recv(int(min(limit, 4096)))):
                    target.sendall(content)
                    limit -= len(content)
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        def serve_door() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = door.accept()
                    far = socket.create_connection((host, int(port)))
                    stack.enter_context(near)
                    stack.enter_context(far)
                    limit = limits[len(made)] if len(made) < len(limits) else float("inf")
                    made.append(1)
                    for arguments in ((near, far, float("inf")), (far, near, limit)):
                        threading.Thread(target=carry, args=arguments, daemon=True).start()

        thread = threading.Thread(target=serve_door, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{door.getsockname()[1]}", made
        finally:
            door.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_connection_that_breaks_costs_and_doubles_nothing(server: ServerProcess, client: Client) -> None:
    """The stream is cut again and again: each token and character comes once, and the session is where it should be."""
    limits = [300, 400, 600, 500, 200, 700, 350, 800]
    with client.session() as session, client.session() as quiet, _cut_off(server.grpc_address, limits) as (way, made):
        with Client(way, retries=Retries(first_seconds=0.01), timeout_seconds=60) as shaky:
            held = shaky.open_session(session.session_id, position=0)
            for turn in range(6):
                options: dict[str, Any] = {"max_tokens": 60, "temperature": 0.9, "seed": turn, "n": 1 + turn % 2}
                pieces = list(held.generate("The horses ", **options))
                expected = list(quiet.generate("The horses ", **options))
                for branch in range(options["n"]):
                    parts = [[one for one in each if one.branch == branch] for each in (pieces, expected)]
                    assert _ids(parts[0]) == _ids(parts[1])
                    assert _text(parts[0]) == _text(parts[1])
                scored = [token for piece in held.score(" rest.") for token in piece.tokens]
                assert scored == [token for piece in quiet.score(" rest.") for token in piece.tokens]
                assert held.predict("x", k=2).candidates == quiet.predict("x", k=2).candidates
            assert held.position == session.get().position == quiet.get().position == 6 * (11 + 60 + 6 + 1)
        assert len(made) > len(limits)


async def test_the_asyncio_client_is_as_safe(server: ServerProcess) -> None:
    """The same connections, the same tokens."""
    async with AsyncClient(server.grpc_address, timeout_seconds=60) as quiet, quiet.session() as expected:
        wanted = [
            token.id async for piece in expected.generate("The ", max_tokens=80, **SAMPLED) for token in piece.tokens
        ]
    with _cut_off(server.grpc_address, [200, 300, 400]) as (way, made):
        retries = Retries(first_seconds=0.01)
        async with AsyncClient(way, retries=retries, timeout_seconds=60) as shaky, shaky.session() as held:
            pieces = [piece async for piece in held.generate("The ", max_tokens=80, **SAMPLED)]
            assert (await held.get()).position == held.position == 84
            assert (await held.predict("x", k=1)).position == 85
        assert len(made) > 3
    assert _ids(pieces) == wanted
    assert sum(piece.finished is not None for piece in pieces) == 1


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_costs_nothing(bundle: Path, tmp_path: Path, end: signal.Signals) -> None:
    """The server is killed or stopped, between turns and within one, and a new server starts on the same file and port:
    the client continues, and its tokens are those of an undisturbed run."""
    store = ("--set", f"store=sqlite:{tmp_path / 'sessions'}")

    def generate(session: Session, turn: int) -> Stream[Piece]:
        return session.generate("The ", max_tokens=200, temperature=0.9, seed=turn)

    def go_on(stream: Stream[Piece] | None, turn: int) -> list[Piece]:
        return list(stream or generate(session, turn))

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serve(bundle, *store))
        address = server.grpc_address
        client = stack.enter_context(Client(address, timeout_seconds=120, retries=Retries(max_attempts=60)))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        session = stack.enter_context(client.session(keep=True))
        pieces = list(generate(session, 0))
        assert _end(pieces).durable_position == session.position == 204
        for turn in (1, 2, 3):
            stream = generate(session, turn) if turn % 2 else None
            if stream is not None:
                pieces.append(next(stream))
            server.process.send_signal(end)
            server.process.wait()
            rest = pool.submit(go_on, stream, turn)
            server = stack.enter_context(serve(bundle, *store, "--listen", address))
            pieces += rest.result(120)
        assert session.get().position == session.position == 4 * 204
        with client.session() as fresh:
            expected = [piece for turn in range(4) for piece in generate(fresh, turn)]
    assert _ids(pieces) == _ids(expected)
    assert _text(pieces) == _text(expected)

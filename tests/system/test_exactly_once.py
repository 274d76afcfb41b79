"""A turn over a real port happens once, whatever breaks between a client and its servers."""

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.server_process import ServerProcess, serve
from tests.system.persistent_sessions import SAMPLED, end_of, failure, ids_of, text_of

from carousel.client import AsyncClient, Client, Piece, Retries, Session, Stream

pytestmark = pytest.mark.slow


def test_a_repeat_is_answered_word_for_word(client: Client) -> None:
    """Tokens, text, seed and log-probabilities are the first answer's; the session has moved once."""
    with client.session() as session:
        options: dict[str, Any] = {"session_id": session.session_id, "request_id": "one", "max_tokens": 20}
        first = list(client.generate("The ", num_log_probabilities=2, **options))
        again = list(client.generate("The ", num_log_probabilities=2, **options))
        assert [token for piece in first for token in piece.tokens] == [t for piece in again for t in piece.tokens]
        assert text_of(first) == text_of(again)
        assert (end_of(first).is_replay, end_of(again).is_replay) == (False, True)
        assert (end_of(first).seed, end_of(first).position) == (end_of(again).seed, end_of(again).position)
        assert session.get().position == end_of(first).position == 24


def test_scores_and_predictions_are_replayed_word_for_word(client: Client) -> None:
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
    """Several repeats at once get one answer, and the session moves once."""
    with client.session() as session, ThreadPoolExecutor(4) as pool:
        options: dict[str, Any] = {"session_id": session.session_id, "request_id": "same", "max_tokens": 400}
        first = client.generate("A ", **options)
        opening = next(first)
        rest = [pool.submit(lambda: list(client.generate("A ", **options))) for _ in range(4)]
        answers = [[opening, *first], *(one.result() for one in rest)]
        assert len({tuple(ids_of(answer)) for answer in answers}) == 1
        assert sorted(end_of(answer).is_replay for answer in answers) == [False, True, True, True, True]
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
            error = failure(misuse)
            assert error.code == "INVALID_ARGUMENT"
            assert [violation.field for violation in error.violations] == ["request_id"]
        assert session.get().position == 7


def test_an_answer_too_large_to_keep_is_not_applied_twice(client: Client) -> None:
    """Its repeat is refused with the reason, and changes nothing."""
    with client.session() as session:
        options: dict[str, Any] = {"session_id": session.session_id, "request_id": "long", "max_tokens": 3_000}
        list(client.generate("The ", **options))
        error = failure(lambda: list(client.generate("The ", **options)))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "ANSWER_GONE")
        assert session.get().position == 3_004


def test_an_unexpected_position_is_refused_with_the_current_one(client: Client) -> None:
    """This holds for every kind of turn and for a rewind; nothing changes."""
    with client.session() as session:
        session.feed("The ")
        where: dict[str, Any] = {"session_id": session.session_id, "expected_position": 3}
        for late in (
            lambda: list(client.generate("x", **where)),
            lambda: list(client.score("x", **where)),
            lambda: client.predict("x", **where),
            lambda: client.rewind_session(session.session_id, position=0, expected_position=3),
        ):
            error = failure(late)
            assert (error.code, error.reason, error.position) == ("ABORTED", "POSITION_MISMATCH", 4)
        assert session.get().position == 4


def test_two_holders_of_a_session_do_not_overwrite_each_other(client: Client) -> None:
    """The holder that did not know of the other's turn gets an error, and continues after a `get`."""
    with client.session() as session:
        other = client.open_session(session.session_id, position=0)
        other.feed("The ")
        assert failure(lambda: session.feed("A ")).position == 4
        session.get()
        assert session.feed("carousel") == 12


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
                    assert ids_of(parts[0]) == ids_of(parts[1])
                    assert text_of(parts[0]) == text_of(parts[1])
                scored = [token for piece in held.score(" rest.") for token in piece.tokens]
                assert scored == [token for piece in quiet.score(" rest.") for token in piece.tokens]
                assert held.predict("x", k=2).candidates == quiet.predict("x", k=2).candidates
            assert held.position == session.get().position == quiet.get().position == 6 * (11 + 60 + 6 + 1)
        assert len(made) > len(limits)


async def test_the_asyncio_client_is_as_safe(server: ServerProcess) -> None:
    """The same connections give the same tokens."""
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
    assert ids_of(pieces) == wanted
    assert sum(piece.finished is not None for piece in pieces) == 1


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_costs_nothing(bundle: Path, tmp_path: Path, end: signal.Signals) -> None:
    """The server is killed or stopped, between turns and within one, and a new server starts on the same file and port:
    the client continues with the tokens of an undisturbed run."""
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
        assert end_of(pieces).durable_position == session.position == 204
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
    assert ids_of(pieces) == ids_of(expected)
    assert text_of(pieces) == text_of(expected)

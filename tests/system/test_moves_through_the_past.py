"""A session over a real port forks, goes back and branches, and then gives the tokens that a new one would."""

import pytest
from tests.system.persistent_sessions import SAMPLED, end_of, failure, ids_of, text_of

from carousel.client import Client

pytestmark = pytest.mark.slow


def test_forks_go_on_as_the_original_would(client: Client) -> None:
    """Each copy gives the tokens of a new session with the same input, and no copy disturbs another."""
    with client.session() as session, client.session() as fresh:
        session.feed("The carousel ")
        session.checkpoint("start")
        session.feed("turns and ")
        forks = session.fork(3, checkpoint="start")
        fresh.feed("The carousel ")
        expected = ids_of(fresh.generate("turns ", max_tokens=30, **SAMPLED))
        assert [ids_of(fork.generate("turns ", max_tokens=30, **SAMPLED)) for fork in forks] == [expected] * 3
        assert session.get().position == len("The carousel turns and ")
        assert forks[0].get().position == fresh.get().position


def test_generating_again_from_here_needs_no_feeding(client: Client) -> None:
    """Back at a boundary, another seed gives the tokens that it gives in a new session, and the first seed gives its
    tokens again."""
    with client.session() as session:
        start = session.feed("The horses ")
        first = ids_of(session.generate(max_tokens=30, **SAMPLED))
        answers = {7: first}
        for seed in (8, 7):
            assert session.rewind(position=start) == start
            pieces = list(session.generate(max_tokens=30, temperature=0.9, seed=seed))
            assert end_of(pieces).num_input_tokens == 0
            assert answers.setdefault(seed, ids_of(pieces)) == ids_of(pieces)
        assert answers[8] != answers[7]
        with client.session() as fresh:
            fresh.feed("The horses ")
            assert ids_of(fresh.generate(max_tokens=30, temperature=0.9, seed=8)) == answers[8]


def test_a_session_goes_back_to_retained_points_alone(client: Client) -> None:
    """Boundaries beyond the ring are gone, a checkpoint outlives them, and the refusal lists the available points."""
    with client.session() as session:
        session.checkpoint("start")
        for _ in range(12):
            session.feed("ab")
        history = session.history()
        assert history.positions[-1] == 24
        assert 2 not in history.positions
        error = failure(lambda: session.rewind(position=2))
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
            assert ids_of(branches[number]) == ids_of(single)
            assert text_of(branches[number]) == text_of(single)
            assert end_of(branches[number]).seed == 7 + number
        assert session.get().position == alone.get().position == 29
        assert ids_of(session.generate(max_tokens=9, **SAMPLED)) == ids_of(alone.generate(max_tokens=9, **SAMPLED))

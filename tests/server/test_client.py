"""The client library against a tiny server of the same contract."""

import asyncio
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta

import pytest
from tests.server.fake_service import (
    HANG,
    MOVED,
    OVERLOADED,
    STOPPING,
    WAIT,
    FakeService,
    Mishap,
    serve_fake,
)

from carousel.client import (
    AsyncClient,
    Client,
    Finished,
    GeneratedToken,
    Piece,
    Retries,
    ServerError,
    ServerUnreachable,
    Session,
)
from carousel.client.resume import GenerationResume
from carousel.client.retries import Attempts
from carousel.errors import (
    AnswerGone,
    CarouselError,
    InvalidRequest,
    ModelFailed,
    PositionMismatch,
    SessionNotFound,
)


@pytest.fixture
def fake() -> Iterator[tuple[str, FakeService]]:
    with serve_fake() as (address, service, _):
        yield address, service


@pytest.fixture
def client(fake: tuple[str, FakeService]) -> Iterator[Client]:
    with Client(fake[0], timeout_seconds=20) as client:
        yield client


@pytest.fixture
def service(fake: tuple[str, FakeService]) -> FakeService:
    return fake[1]


def test_generate_streams_pieces_and_marks_the_last(client: Client) -> None:
    """Every message becomes a piece, and only the last one says how it ended."""
    pieces = list(client.generate("a", max_tokens=3, seed=7))
    assert "".join(piece.text for piece in pieces) == "bcd"
    assert [token.id for piece in pieces for token in piece.tokens] == [98, 99, 100]
    assert [piece.finished is None for piece in pieces] == [True, True, True, False]
    finished = pieces[-1].finished
    assert finished is not None
    assert (finished.reason, finished.position, finished.num_generated_tokens, finished.seed) == ("length", 4, 3, 7)


def test_every_generation_option_arrives(client: Client, service: FakeService) -> None:
    """What the caller asks for is on the wire under the contract's names; None leaves the server's default."""
    sampling = {"temperature": 0.5, "top_k": 3, "top_p": 0.75, "min_p": 0.25, "seed": 2**63}
    penalties = {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": -0.5}
    rest = {"stop": "\n", "stop_ids": [1, 2], "num_log_probabilities": 4, "content": "ids", "max_tokens": None}
    list(client.generate([1, 2], model="counter", **sampling, **penalties, logit_bias={5: -1.0}, **rest))  # type: ignore[arg-type]
    request = service.requests[-1]
    for name, value in (sampling | penalties).items():
        assert getattr(request.sampling, name) == value
    assert dict(request.sampling.logit_bias) == {5: -1.0}
    assert list(request.stop) == ["\n"]
    assert list(request.stop_ids) == [1, 2]
    assert request.num_log_probabilities == 4
    assert request.content == request.CONTENT_IDS
    assert not request.HasField("max_tokens")
    assert list(request.input.tokens.ids) == [1, 2]
    assert request.model == "counter"


def test_unknown_options_are_refused_by_name(client: Client) -> None:
    """A mistyped option is an error, not a silent default."""
    with pytest.raises(TypeError, match="temprature"):
        client.generate("a", temprature=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="timeout"):
        client.tokenize("a", timeout=1.0)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="content"):
        client.generate("a", content="words")  # type: ignore[arg-type]


def test_a_session_lives_as_long_as_its_block(client: Client, service: FakeService) -> None:
    """It is made at the start, carries its position over the calls, and is deleted at the end."""
    with client.session("mine") as session:
        assert session.feed("abc") == 3
        list(session.generate("d", max_tokens=2))
        session.predict("ef", k=1)
        list(session.score("g"))
        assert session.get().position == 9
    assert service.positions == {}


def test_a_kept_session_stays(client: Client, service: FakeService) -> None:
    """With keep=True the end of the block deletes nothing."""
    with client.session(keep=True) as session:
        session.feed("abc")
    assert service.positions == {session.session_id: 3}


def test_a_session_that_is_gone_does_not_hide_the_error(client: Client) -> None:
    """What the block raises comes out, also when the deletion at its end fails."""

    def fail_after_deleting() -> None:
        with client.session() as session:
            session.delete()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail_after_deleting()


def test_session_calls_carry_the_load_balancer_hint(client: Client, service: FakeService) -> None:
    """`x-session-id` goes with every call on a session and with no other."""
    with client.session("mine") as session:
        session.feed("abc")
    client.models()
    assert service.metadata[0]["x-session-id"] == "mine"
    assert "x-session-id" not in service.metadata[1]


def test_an_id_that_no_header_can_carry_reaches_the_server(client: Client) -> None:
    """The server, not the transport, is the one to refuse it."""
    with pytest.raises(ServerError, match="there is no session") as caught:
        client.get_session("é\n")
    assert caught.value.code == "NOT_FOUND"


def test_metadata_of_client_and_call_both_arrive(fake: tuple[str, FakeService]) -> None:
    """A proxy's token is given once, a request's own mark with the request."""
    address, service = fake
    with Client(address, metadata=[("token", "t")]) as client:
        client.models(metadata=[("mark", "m")])
    assert service.metadata[0]["token"] == "t"
    assert service.metadata[0]["mark"] == "m"


def test_the_predictor_asks_over_one_stream(client: Client, service: FakeService) -> None:
    """Each call feeds its text to the same sequence; a prefix asks for words and is not fed."""
    with client.predictor() as predict:
        first = predict("abc", k=2)
        second = predict(k=1, word_prefix=" ca", num_words=2)
    assert (first.position, second.position) == (3, 3)
    assert [candidate.probability for candidate in first.candidates] == pytest.approx([1, 0.36788], abs=1e-4)
    assert first.words == ()
    assert [word.text for word in second.words] == [" caa", " cab"]
    assert len(service.metadata) == 2


def test_a_predictor_stream_that_ends_early_is_an_error(client: Client) -> None:
    """The server's end of the stream is not an answer."""
    with client.predictor() as predict:
        predict("end")
        with pytest.raises(ServerError, match="ended the stream"):
            predict("more")


def test_score_gives_tokens_and_then_totals(client: Client) -> None:
    """Tokens come as they are rated; the totals are in the last piece alone."""
    pieces = list(client.score("ab", top_g=97))
    tokens = [token for piece in pieces for token in piece.tokens]
    assert [(token.text, token.rank, token.is_hit) for token in tokens] == [("a", 97, True), ("b", 98, False)]
    assert [piece.totals is None for piece in pieces] == [True, True, False]
    assert pieces[-1].totals is not None
    assert (pieces[-1].totals.num_tokens, pieces[-1].totals.num_hits) == (2, 1)


def test_text_goes_to_ids_and_back(client: Client) -> None:
    """Tokenize and detokenize agree."""
    tokens = client.tokenize("né")
    assert client.detokenize(token.id for token in tokens) == "né"


def test_a_model_describes_itself(client: Client) -> None:
    """Limits are a value of their own and the exporter's notes are a mapping."""
    model = client.model()
    assert client.models() == (model,)
    assert (model.name, model.limits.max_input_tokens, model.training) == ("counter", 16, {"corpus": "numbers"})


def test_sessions_are_listed_over_all_pages(client: Client) -> None:
    """The caller sees one sequence, however the server pages it."""
    for name in "abcde":
        client.create_session(name)
    sessions = list(client.list_sessions())
    assert [session.session_id for session in sessions] == list("abcde")
    assert sessions[0].create_time.isoformat() == "2023-11-14T22:13:20+00:00"


def test_an_error_tells_what_the_server_attached(client: Client) -> None:
    """Code, stable reason, facts and retry time are there to be read by a program."""
    with pytest.raises(ServerError, match="too many turns") as caught:
        list(client.generate("overload"))
    error = caught.value
    assert (error.code, error.reason, error.retry_after_seconds) == ("RESOURCE_EXHAUSTED", "OVERLOADED", 0.25)
    assert error.details == {"limit": "max_queued_turns"}


def test_a_refused_value_names_its_field(client: Client) -> None:
    """Field violations are decoded, from a prediction stream too."""
    with pytest.raises(ServerError) as caught, client.predictor() as predict:
        predict("bad")
    assert caught.value.code == "INVALID_ARGUMENT"
    assert [violation.field for violation in caught.value.violations] == ["sampling.top_p"]
    assert caught.value.retry_after_seconds is None


def test_an_unreachable_server_says_where_it_was_sought() -> None:
    """Nothing listens on port 1."""
    with Client("127.0.0.1:1") as client, pytest.raises(ServerUnreachable, match="127.0.0.1:1") as caught:
        client.models()
    assert (caught.value.code, caught.value.reason, caught.value.address) == ("UNAVAILABLE", "", "127.0.0.1:1")


@pytest.mark.parametrize("end", ["close", "drop"])
def test_leaving_a_stream_cancels_the_call(client: Client, service: FakeService, end: str) -> None:
    """Closed or simply dropped, the server stops working on it."""
    stream = client.generate(HANG)
    assert next(stream).text == "h"
    if end == "close":
        stream.close()
    del stream
    assert service.is_cancelled.wait(10)


def test_a_timeout_ends_a_call(client: Client, service: FakeService) -> None:
    """The call's own timeout wins over the client's and holds for the whole stream."""
    with pytest.raises(ServerError) as caught:
        list(client.generate(HANG, timeout_seconds=0.2))
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert service.is_cancelled.wait(10)


def test_closing_the_client_ends_what_is_open(fake: tuple[str, FakeService]) -> None:
    """A stream on a closed client fails as cancelled; it does not hang."""
    with Client(fake[0]) as client:
        stream = client.generate(HANG)
        next(stream)
    with pytest.raises(ServerError) as caught:
        next(stream)
    assert caught.value.code == "CANCELLED"


def test_threads_share_a_client(client: Client) -> None:
    """Streams of several threads at once do not mix."""
    results: dict[str, str] = {}

    def run(prompt: str) -> None:
        results[prompt] = "".join(piece.text for piece in client.generate(prompt, max_tokens=5))

    threads = [threading.Thread(target=run, args=(prompt,)) for prompt in "adg"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"a": "bcdef", "d": "efghi", "g": "hijkl"}


async def test_async_calls_mean_the_same(fake: tuple[str, FakeService]) -> None:
    """Every call of the asyncio client answers what the blocking one answers."""
    with Client(fake[0]) as client:
        async with AsyncClient(fake[0], timeout_seconds=20) as other:
            assert [piece async for piece in other.generate("a", seed=1)] == list(client.generate("a", seed=1))
            assert [piece async for piece in other.score("ab", top_g=3)] == list(client.score("ab", top_g=3))
            assert await other.predict("ab", k=3, word_prefix="") == client.predict("ab", k=3, word_prefix="")
            assert await other.tokenize("né") == client.tokenize("né")
            assert await other.detokenize([104, 105]) == client.detokenize([104, 105])
            assert await other.models() == client.models()
            assert await other.model() == client.model()
            assert await other.is_serving() is client.is_serving() is True
            for name in "abc":
                await other.create_session(name)
            assert [one async for one in other.list_sessions()] == list(client.list_sessions())
            assert await other.get_session("a") == client.get_session("a")


async def test_an_async_session_lives_as_long_as_its_block(fake: tuple[str, FakeService]) -> None:
    """The same life as the blocking one's."""
    address, service = fake
    async with AsyncClient(address) as client:
        async with client.session("mine") as session:
            assert await session.feed("abc") == 3
            assert [piece.text async for piece in session.generate("d", max_tokens=2)] == ["e", "f", ""]
            await session.predict("ef", k=1)
            assert [piece async for piece in session.score("g")]
            async with session.predictor() as predict:
                await predict("h")
            assert (await session.get()).position == 10
        assert service.positions == {}
        with pytest.raises(ServerError, match="deleted"):
            await session.delete()


async def test_async_errors_are_the_same_errors(fake: tuple[str, FakeService]) -> None:
    """Unary, streamed and predicted failures are all read in full; a predictor stays failed."""
    async with AsyncClient(fake[0]) as client:
        with pytest.raises(ServerError) as caught:
            await client.get_session("nobody")
        assert caught.value.reason == "SESSION_NOT_FOUND"
        with pytest.raises(ServerError) as caught:
            [piece async for piece in client.generate("overload")]
        assert caught.value.retry_after_seconds == 0.25
        async with client.predictor() as predict:
            for prompt in ("bad", "good"):
                with pytest.raises(ServerError) as caught:
                    await predict(prompt)
                assert caught.value.violations[0].field == "sampling.top_p"
        async with client.predictor() as predict:
            await predict("end")
            with pytest.raises(ServerError, match="ended the stream"):
                await predict("more")
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(ServerUnreachable, match="127.0.0.1:1"):
            await client.models()
        with pytest.raises(ServerUnreachable, match="127.0.0.1:1"):
            await client.predict("a")


@pytest.mark.parametrize("end", ["close", "drop", "cancel"])
async def test_leaving_an_async_stream_cancels_the_call(fake: tuple[str, FakeService], end: str) -> None:
    """Closed, dropped, or its reader cancelled: the server stops working on it."""
    address, service = fake
    async with AsyncClient(address) as client:
        stream = client.generate(HANG)
        assert (await anext(stream)).text == "h"
        if end == "close":
            await stream.close()
        if end == "cancel":
            reader = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
        del stream
        assert await asyncio.to_thread(service.is_cancelled.wait, 10)


async def test_closing_the_async_client_ends_what_is_open(fake: tuple[str, FakeService]) -> None:
    """As a failed call; the task that reads is not itself cancelled."""
    async with AsyncClient(fake[0]) as client:
        stream = client.generate(HANG)
        await anext(stream)
        reader = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
    with pytest.raises(ServerError) as caught:
        await reader
    assert caught.value.code == "CANCELLED"


async def test_a_cancelled_prediction_ends_its_stream(fake: tuple[str, FakeService]) -> None:
    """The task that asks is cancelled, and so is the call."""
    address, service = fake
    async with AsyncClient(address) as client:
        async with client.predictor() as predict:
            await predict(HANG)
            asking = asyncio.ensure_future(predict(WAIT))
            await asyncio.to_thread(service.is_waiting.wait, 10)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert await asyncio.to_thread(service.is_cancelled.wait, 10)


class Naps:
    """Sleeps that only count."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)

    async def later(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
def patient(fake: tuple[str, FakeService], naps: Naps) -> Iterator[Client]:
    """A client that repeats without waiting."""
    with Client(fake[0], timeout_seconds=20, sleep=naps) as client:
        yield client


def _ids(pieces: Iterable[Piece]) -> list[int]:
    return [token.id for piece in pieces for token in piece.tokens]


def _text(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_a_session_numbers_its_turns(client: Client, service: FakeService) -> None:
    """Each turn has an id of its own and expects the position of the last answer; a generation has a seed."""
    with client.session() as session:
        session.feed("ab")
        list(session.generate("c", max_tokens=2))
        list(session.score("d"))
        session.predict("e")
        assert session.position == 7
    requests = service.requests
    assert [request.expected_position for request in requests] == [0, 2, 5, 6]
    assert all(request.HasField("expected_position") for request in requests)
    assert len({uuid.UUID(request.request_id) for request in requests}) == 4
    assert requests[1].sampling.HasField("seed")


def test_what_the_caller_sets_stays(client: Client, service: FakeService) -> None:
    """An id that outlives the process, an own expectation, an own seed."""
    with client.session() as session:
        list(session.generate("a", request_id="mine", expected_position=0, seed=3))
    assert service.requests[0].request_id == "mine"
    assert service.requests[0].sampling.seed == 3


def test_a_session_found_again_expects_nothing_at_first(client: Client, service: FakeService) -> None:
    """Its first answer tells where it stands, and so does `get`."""
    client.create_session("old")
    found, other = Session(client, "old"), Session(client, "old")
    assert found.position is None
    found.feed("abc")
    assert not service.requests[0].HasField("expected_position")
    assert found.position == other.get().position == other.position == 3


@pytest.mark.parametrize("is_applied", [False, True])
@pytest.mark.parametrize("after", range(5))
def test_a_broken_stream_goes_on_where_it_stopped(
    patient: Client, service: FakeService, after: int, is_applied: bool
) -> None:
    """Wherever it breaks, before or after the turn was saved, the caller gets each token and the end once."""
    with patient.session() as session:
        service.mishaps = [Mishap(after, is_applied=is_applied), Mishap(max(0, after - 1)), Mishap(after)]
        pieces = list(session.generate("a", max_tokens=4))
        assert _ids(pieces) == [98, 99, 100, 101]
        assert _text(pieces) == "bcde"
        assert [piece.finished is not None for piece in pieces] == [False] * 4 + [True]
        assert session.position == service.positions[session.session_id] == 5
    requests = service.requests
    assert len(requests) == 4
    assert all(request == requests[0] for request in requests)


def test_each_branch_goes_on_where_it_stopped(patient: Client, service: FakeService) -> None:
    """With n continuations mixed in one stream, none loses or doubles a token, and each ends once, branch 0 last."""
    with patient.session() as session:
        service.mishaps = [Mishap(2), Mishap(7), Mishap(8), Mishap(8)]
        pieces = list(session.generate("a", max_tokens=2, n=3, seed=5))
    by_branch = {branch: [piece for piece in pieces if piece.branch == branch] for branch in range(3)}
    assert {branch: _text(parts) for branch, parts in by_branch.items()} == {0: "bc", 1: "cd", 2: "de"}
    assert [piece.branch for piece in pieces if piece.finished is not None] == [2, 1, 0]
    assert [piece.finished.seed for piece in pieces if piece.finished is not None] == [7, 6, 5]


def test_a_repeat_in_other_portions_is_cut_right() -> None:
    """Text may lag its tokens and come in other pieces the second time; what is left out is counted, not matched."""

    def piece(text: str, *ids: int, finished: Finished | None = None) -> Piece:
        return Piece(text, tuple(GeneratedToken(index, None, ()) for index in ids), finished)

    resume = GenerationResume()
    first = [resume.take(piece("", 1)), resume.take(piece("é", 2)), resume.take(piece("", 3))]
    resume.restart()
    end = Finished("length", "", 9, 1, 5, 0)
    second = [resume.take(piece("éab", 1, 2, 3, 4)), resume.take(piece("c", 5, finished=end))]
    assert [one and one.text for one in (*first, *second)] == ["", "é", "", "ab", "c"]
    assert _ids(one for one in (*first, *second) if one) == [1, 2, 3, 4, 5]
    resume.restart()
    assert resume.take(piece("éabc", 1, 2, 3, 4, 5, finished=end)) is None
    assert resume.position == 9


def test_a_score_and_a_prediction_are_repeated_too(patient: Client, service: FakeService) -> None:
    """Each rated token comes once; a prediction's stream is opened anew."""
    with patient.session() as session:
        service.mishaps = [Mishap(1), Mishap(2, is_applied=True), None, Mishap(), Mishap(is_applied=True)]
        pieces = list(session.score("abc"))
        assert [token.text for piece in pieces for token in piece.tokens] == ["a", "b", "c"]
        assert [piece.totals is not None for piece in pieces] == [False] * 3 + [True]
        with session.predictor() as predict:
            assert predict("d", k=1).position == 4
            service.mishaps = [Mishap(is_applied=True)]
            assert predict("e", k=1).position == 5
        assert service.positions[session.session_id] == session.position == 5


def test_overload_and_a_lost_race_are_waited_out(patient: Client, service: FakeService, naps: Naps) -> None:
    """At least as long as the server asks for, and longer from one failure to the next."""
    with patient.session() as session:
        service.mishaps = [Mishap(error=OVERLOADED), Mishap(error=MOVED), Mishap(error=STOPPING)]
        assert session.feed("a") == 1
    assert 0.25 + 0.05 <= naps.seconds[0] <= 0.25 + 0.1
    assert 0.1 <= naps.seconds[1] <= 0.2
    assert 0.2 <= naps.seconds[2] <= 0.4


def test_repeats_are_bounded(fake: tuple[str, FakeService], naps: Naps) -> None:
    """After so many failures in a row the last one is raised; what gets through in between starts the count anew."""
    address, service = fake
    with Client(address, retries=Retries(max_attempts=3), sleep=naps) as client, client.session() as session:
        service.mishaps = [Mishap()] * 3
        with pytest.raises(ServerUnreachable):
            session.feed("a")
        assert len(service.requests) == 3
        assert session.position == 0
        service.mishaps = [Mishap(1), Mishap(1), Mishap(2), Mishap(2), Mishap(3), Mishap(3)]
        assert _text(session.generate("a", max_tokens=4)) == "bcde"


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("n", "no"),
        SessionNotFound("gone"),
        ModelFailed("not a number"),
        PositionMismatch(3, 4),
        AnswerGone("too large"),
    ],
)
def test_what_cannot_help_is_not_repeated(
    patient: Client, service: FakeService, naps: Naps, error: CarouselError
) -> None:
    """The first answer is the last, and the session still expects to be where it was."""
    with patient.session() as session:
        service.mishaps = [Mishap(1, error=error)]
        with pytest.raises(ServerError) as caught:
            list(session.generate("a"))
        assert caught.value.reason == error.reason
        assert len(service.requests) == 1
        assert session.position == 0
    assert naps.seconds == []


def test_a_plain_call_is_made_once(patient: Client, service: FakeService) -> None:
    """Without a session nothing tells a repeat from a second request."""
    service.mishaps = [Mishap(1)]
    with pytest.raises(ServerUnreachable):
        list(patient.generate("a"))
    assert len(service.requests) == 1


def test_a_lost_record_is_told_with_the_position(patient: Client, service: FakeService) -> None:
    """The turn was applied and its answer is gone: an error with the position, from which `get` goes on."""
    with patient.session() as session:
        service.mishaps = [Mishap(1, is_applied=True)]
        stream = session.generate("a", max_tokens=2)
        assert next(stream).text == "b"
        service.records.clear()
        with pytest.raises(ServerError) as caught:
            list(stream)
        assert (caught.value.code, caught.value.reason, caught.value.position) == ("ABORTED", "POSITION_MISMATCH", 3)
        with pytest.raises(ServerError, match="at position 3, not 0"):
            session.feed("b")
        assert session.get().position == 3
        assert session.feed("b") == 4


def test_a_stream_that_is_given_up_leaves_no_expectation(client: Client, service: FakeService) -> None:
    """It may have been applied or not: the next turn goes on from either."""
    with client.session() as session:
        session.feed("a")
        stream = session.generate(HANG)
        next(stream)
        stream.close()
        assert session.position is None
        assert service.is_cancelled.wait(10)
        session.feed("b")
        assert not service.requests[-1].HasField("expected_position")
        assert session.position == 2


def test_turns_at_once_expect_nothing(client: Client, service: FakeService) -> None:
    """Which one comes first is for the server to say; afterwards `get` knows."""
    with client.session() as session:
        first = session.generate("a", max_tokens=1)
        list(session.generate("b", max_tokens=1))
        list(first)
        assert [request.HasField("expected_position") for request in service.requests].count(True) <= 1
        assert session.position is None
        assert session.get().position == session.position == 4


def test_repeats_end_with_the_callers_time(fake: tuple[str, FakeService], naps: Naps) -> None:
    """No pause goes beyond the timeout: the failure is raised at once instead."""
    address, service = fake
    retries = Retries(first_seconds=50.0, max_seconds=60.0)
    with Client(address, retries=retries, sleep=naps) as client, client.session() as session:
        service.mishaps = [Mishap()]
        with pytest.raises(ServerUnreachable):
            session.feed("a", timeout_seconds=20)
    assert naps.seconds == []


def test_attempts_share_the_callers_time() -> None:
    """Each attempt gets what the ones before have left of it."""
    now = [100.0]
    attempts = Attempts(Retries(), 10.0, clock=lambda: now[0], draw=lambda low, high: high)
    assert attempts.limit({"timeout_seconds": 10.0, "metadata": [("a", "b")]})["timeout_seconds"] == 10
    now[0] += 4
    assert attempts.limit({}) == {"timeout_seconds": 6.0}
    busy = ServerError("busy", code="RESOURCE_EXHAUSTED", retry_after_seconds=5.0)
    assert attempts.pause_after(busy) == 5.1
    with pytest.raises(ServerError, match="busy"):
        attempts.pause_after(ServerError("busy", code="RESOURCE_EXHAUSTED", retry_after_seconds=6.0))


def test_pauses_grow_to_their_bound() -> None:
    """Twice as long each time, a random half left out."""
    attempts = Attempts(Retries(max_attempts=9), None, draw=lambda low, high: low)
    gone = ServerError("gone", code="UNAVAILABLE")
    assert [attempts.pause_after(gone) for _ in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 1.5]
    assert attempts.limit({}) == {}


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"first_seconds": 0.0}, {"first_seconds": 5.0}])
def test_impossible_retries_are_refused(wrong: dict[str, float]) -> None:
    """Named in the error."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Retries(**wrong)  # type: ignore[arg-type]


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
        assert (history.positions, history.checkpoints) == ((0, 2, 4, 3), {"start": 2})
        state = session.export(timedelta(minutes=2), position=2)
        assert service.requests[-1].ttl.seconds == 120
        assert patient.import_session(state, "copy").position == 2
        assert forks[0].feed("f") == 3
    with pytest.raises(ValueError, match="not both"):
        session.fork(position=2, checkpoint="start")


def test_the_plain_calls_mean_the_same(client: Client) -> None:
    """By id, for who keeps no session object."""
    client.create_session("mine")
    list(client.generate("ab", session_id="mine", max_tokens=0, request_id="r", expected_position=0))
    with pytest.raises(ServerError) as caught:
        list(client.score("c", session_id="mine", expected_position=7))
    assert caught.value.position == 2
    assert client.save_checkpoint("mine", "here").position == 2
    assert client.rewind_session("mine", position=0).position == 0
    assert [one.position for one in client.fork_session("mine", checkpoint="here")] == [2]
    assert client.get_history("mine").checkpoints == {"here": 2}
    assert client.export_session("mine") == b"at 0"


def test_a_state_goes_with_the_request_and_comes_back(client: Client, service: FakeService) -> None:
    """For a client that keeps its own; a predictor's stream goes on from its last one by itself."""
    end = list(client.generate("a", max_tokens=1, state=b"s"))[-1].finished
    assert end is not None
    assert end.state == b"sa"
    assert client.predict("b", state=end.state).state == b"sa+"
    assert service.requests[-1].state == b"sa"
    list(client.score("c", state=b"s"))
    assert service.requests[-1].state == b"s"


def test_events_are_watched(client: Client) -> None:
    """A kind that this client does not know yet has no name."""
    client.create_session("mine")
    with client.watch() as events:
        seen = list(events)
    assert [(event.kind, event.session_id) for event in seen] == [("created", "mine"), ("unspecified", "later")]
    assert seen[0].time.isoformat() == "2023-11-14T22:13:20+00:00"


async def test_watching_a_server_that_is_not_there_fails() -> None:
    """When it is read, as any stream."""
    with Client("127.0.0.1:1") as client, pytest.raises(ServerUnreachable):
        next(client.watch())
    async with AsyncClient("127.0.0.1:1") as other:
        events = await other.watch()
        with pytest.raises(ServerUnreachable):
            await anext(events)


async def test_a_cancelled_question_leaves_no_expectation(fake: tuple[str, FakeService]) -> None:
    """Whether it was applied is unknown; the next one is put on a new stream."""
    address, service = fake
    async with AsyncClient(address) as client, client.session() as session, session.predictor() as predict:
        await predict("a", k=1)
        asking = asyncio.ensure_future(predict(WAIT))
        await asyncio.to_thread(service.is_waiting.wait, 10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert session.position is None
        service.is_cancelled.set()
        assert (await predict("b", k=1)).position in (2, 6)


@pytest.mark.parametrize("is_applied", [False, True])
async def test_an_async_session_is_as_safe(fake: tuple[str, FakeService], naps: Naps, is_applied: bool) -> None:
    """Streams go on, scores and predictions are repeated, and the count is the blocking session's."""
    address, service = fake
    async with AsyncClient(address, sleep=naps.later) as client, client.session() as session:
        service.mishaps = [Mishap(2, is_applied=is_applied), Mishap(1), Mishap(4), None]
        pieces = [piece async for piece in session.generate("a", max_tokens=4)]
        assert _ids(pieces) == [98, 99, 100, 101]
        assert sum(piece.finished is not None for piece in pieces) == 1
        service.mishaps = [Mishap(1, is_applied=is_applied), None, Mishap(is_applied=is_applied)]
        assert len([token async for piece in session.score("bc") for token in piece.tokens]) == 2
        assert (await session.predict("d", k=1)).position == 8
        service.mishaps = [Mishap(error=OVERLOADED)]
        assert await session.feed("e") == session.position == 9
        service.mishaps = [Mishap(is_applied=True)]
        await session.delete()
    assert len(naps.seconds) == 7


async def test_an_async_session_gives_up_like_the_blocking_one(fake: tuple[str, FakeService], naps: Naps) -> None:
    """Bounded attempts, no repeat of what cannot help, and no expectation after a cancelled reader."""
    address, service = fake
    retries = Retries(max_attempts=2)
    async with AsyncClient(address, retries=retries, sleep=naps.later) as client, client.session() as session:
        service.mishaps = [Mishap()] * 2
        with pytest.raises(ServerUnreachable):
            await session.feed("a")
        async with session.predictor() as predict:
            with pytest.raises(ServerError, match="top_p"):
                await predict("bad")
            assert (await predict("b")).position == 1
        assert session.position == 1
        stream = session.generate(HANG)
        await anext(stream)
        reader = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert session.position is None
    assert len(naps.seconds) == 1


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


def test_the_client_stays_light() -> None:
    """Importing it loads neither the model's runtime, nor arrays, nor any other part of the server."""
    code = "import sys, carousel.client; print(' '.join(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    assert not loaded & {"numpy", "onnxruntime", "tokenizers", "pydantic", "rich", "typer", "starlette", "structlog"}
    ours = {name for name in loaded if name.startswith("carousel.") and not name.startswith("carousel.v1")}
    assert all(name.startswith("carousel.client") or name == "carousel.errors" for name in ours)

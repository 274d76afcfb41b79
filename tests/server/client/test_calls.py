"""The blocking client: every call of the wire contract, made once."""

import subprocess
import sys
import threading

import pytest
from tests.server.fake_service import HANG, FakeService, Mishap

from carousel.client import (
    Client,
    ServerError,
    ServerUnreachable,
)


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


def test_a_plain_call_is_made_once(patient: Client, service: FakeService) -> None:
    """Without a session nothing tells a repeat from a second request."""
    service.mishaps = [Mishap(1)]
    with pytest.raises(ServerUnreachable):
        list(patient.generate("a"))
    assert len(service.requests) == 1


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


def test_the_client_stays_light() -> None:
    """Importing it loads neither the model's runtime, nor arrays, nor any other part of the server."""
    code = "import sys, carousel.client; print(' '.join(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    assert not loaded & {"numpy", "onnxruntime", "tokenizers", "pydantic", "rich", "typer", "starlette", "structlog"}
    ours = {name for name in loaded if name.startswith("carousel.") and not name.startswith("carousel.v1")}
    assert all(name.startswith("carousel.client") or name == "carousel.errors" for name in ours)

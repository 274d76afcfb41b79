"""Answers come as the server sends them, and leaving a stream ends it on the server too."""

import pytest
from tests.server.client._async.conftest import read
from tests.server.client.running.aio import Running, happens
from tests.server.fake_service import HANG, FakeService

from carousel.client import AsyncClient, ServerError


async def test_generate_streams_pieces_and_marks_the_last(client: AsyncClient) -> None:
    """Every message becomes a piece, and only the last one says how it ended."""
    pieces = await read(client.generate("a", max_tokens=3, seed=7))
    assert "".join(piece.text for piece in pieces) == "bcd"
    assert [token.id for piece in pieces for token in piece.tokens] == [98, 99, 100]
    assert [piece.finished is None for piece in pieces] == [True, True, True, False]
    finished = pieces[-1].finished
    assert finished is not None
    assert (finished.reason, finished.position, finished.num_generated_tokens, finished.seed) == ("length", 4, 3, 7)


async def test_every_generation_option_arrives(client: AsyncClient, service: FakeService) -> None:
    """The caller's options are on the wire under the contract's names; None leaves the server's default."""
    sampling = {"temperature": 0.5, "top_k": 3, "top_p": 0.75, "min_p": 0.25, "seed": 2**63}
    penalties = {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": -0.5}
    rest = {"stop": "\n", "stop_ids": [1, 2], "num_log_probabilities": 4, "content": "ids", "max_tokens": None}
    await read(client.generate([1, 2], model="counter", **sampling, **penalties, logit_bias={5: -1.0}, **rest))  # type: ignore[arg-type]
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


async def test_score_gives_tokens_and_then_totals(client: AsyncClient) -> None:
    """Tokens come as they are scored; only the last piece has the totals."""
    pieces = await read(client.score("ab", top_g=97))
    tokens = [token for piece in pieces for token in piece.tokens]
    assert [(token.text, token.rank, token.is_hit) for token in tokens] == [("a", 97, True), ("b", 98, False)]
    assert [piece.totals is None for piece in pieces] == [True, True, False]
    assert pieces[-1].totals is not None
    assert (pieces[-1].totals.num_tokens, pieces[-1].totals.num_hits) == (2, 1)


async def test_a_state_goes_with_the_request_and_comes_back(client: AsyncClient, service: FakeService) -> None:
    """A client can keep its own state; a predictor's stream continues from its last state by itself."""
    pieces = await read(client.generate("a", max_tokens=1, state=b"s"))
    end = pieces[-1].finished
    assert end is not None
    assert end.state == b"sa"
    assert (await client.predict("b", state=end.state)).state == b"sa+"
    assert service.requests[-1].state == b"sa"
    await read(client.score("c", state=b"s"))
    assert service.requests[-1].state == b"s"


async def test_events_are_watched(client: AsyncClient) -> None:
    """A kind that this client does not know has no name."""
    await client.create_session("mine")
    async with await client.watch() as events:
        seen = await read(events)
    assert [(event.kind, event.session_id) for event in seen] == [("created", "mine"), ("unspecified", "later")]
    assert seen[0].time.isoformat() == "2023-11-14T22:13:20+00:00"


@pytest.mark.parametrize("end", ["close", "drop"])
async def test_leaving_a_stream_cancels_the_call(client: AsyncClient, service: FakeService, end: str) -> None:
    """Closed or dropped, the server stops working on it."""
    stream = client.generate(HANG)
    assert (await anext(stream)).text == "h"
    if end == "close":
        await stream.close()
    del stream
    assert await happens(service.is_cancelled)


async def test_a_timeout_ends_a_call(client: AsyncClient, service: FakeService) -> None:
    """The call's own timeout wins over the client's and bounds the whole stream."""
    with pytest.raises(ServerError) as caught:
        await read(client.generate(HANG, timeout_seconds=0.2))
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert await happens(service.is_cancelled)


async def test_closing_the_client_ends_what_is_open(address: str) -> None:
    """A stream on a closed client fails as cancelled; it does not hang."""
    async with AsyncClient(address) as client:
        stream = client.generate(HANG)
        await anext(stream)
    with pytest.raises(ServerError) as caught:
        await anext(stream)
    assert caught.value.code == "CANCELLED"


async def test_a_reader_that_waits_is_told_of_the_clients_end(address: str) -> None:
    """The reader gets a failed call; the reading task itself is not cancelled."""
    async with AsyncClient(address) as client:
        stream = client.generate(HANG)
        await anext(stream)
        reading = Running(lambda: anext(stream))
    with pytest.raises(ServerError) as caught:
        await reading.result()
    assert caught.value.code == "CANCELLED"


async def test_streams_at_once_do_not_mix(client: AsyncClient) -> None:
    """Every caller that shares a client gets its own answers."""
    running = {
        prompt: Running(lambda prompt=prompt: read(client.generate(prompt, max_tokens=5)))  # type: ignore[misc]
        for prompt in "adg"
    }
    for prompt, text in {"a": "bcdef", "d": "efghi", "g": "hijkl"}.items():
        assert "".join(piece.text for piece in await running[prompt].result()) == text

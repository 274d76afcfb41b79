"""Every plain call of the wire contract is made once, and raises its errors."""

import pytest
from tests.server.client._async.conftest import read
from tests.server.client.running.aio import Running, happens
from tests.server.fake_service import WAIT, FakeService, Mishap

from carousel.client import AsyncClient, Origin, ServerError, ServerUnreachable


async def test_text_goes_to_ids_and_back(client: AsyncClient) -> None:
    """Tokenize and detokenize agree."""
    tokens = await client.tokenize("né")
    assert await client.detokenize(token.id for token in tokens) == "né"


async def test_a_model_describes_itself(client: AsyncClient) -> None:
    """Limits are a separate value and the exporter's notes are a mapping."""
    model = await client.model()
    assert await client.models() == (model,)
    assert (model.name, model.limits.max_input_tokens, model.training) == ("counter", 16, {"corpus": "numbers"})


async def test_sessions_are_listed_over_all_pages(client: AsyncClient) -> None:
    """The caller sees one sequence, however the server pages it."""
    for name in "abcde":
        await client.create_session(name)
    sessions = await read(client.list_sessions())
    assert [session.session_id for session in sessions] == list("abcde")
    assert sessions[0].create_time.isoformat() == "2023-11-14T22:13:20+00:00"


async def test_the_plain_calls_mean_the_same(client: AsyncClient) -> None:
    """The plain calls work by id, without a session object."""
    await client.create_session("mine")
    await read(client.generate("ab", session_id="mine", max_tokens=0, request_id="r", expected_position=0))
    with pytest.raises(ServerError) as caught:
        await read(client.score("c", session_id="mine", expected_position=7))
    assert caught.value.position == 2
    assert (await client.save_checkpoint("mine", "here")).position == 2
    assert (await client.rewind_session("mine", position=0)).position == 0
    (fork,) = await client.fork_session("mine", checkpoint="here")
    assert fork.position == 2
    assert (await client.get_history(fork.session_id)).origin == Origin("mine", 2)
    history = await client.get_history("mine")
    assert (history.checkpoints, history.origin) == ({"here": 2}, None)
    assert await client.export_session("mine") == b"at 0"


async def test_unknown_options_are_refused_by_name(client: AsyncClient) -> None:
    """A mistyped option is an error, not a silent default."""
    with pytest.raises(TypeError, match="temprature"):
        client.generate("a", temprature=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="timeout"):
        await client.tokenize("a", timeout=1.0)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="content"):
        client.generate("a", content="words")  # type: ignore[arg-type]


async def test_session_calls_carry_the_load_balancer_hint(client: AsyncClient, service: FakeService) -> None:
    """`x-session-id` goes with every call on a session and with no other."""
    async with client.session("mine") as session:
        await session.feed("abc")
    await client.models()
    assert service.metadata[0]["x-session-id"] == "mine"
    assert "x-session-id" not in service.metadata[1]


async def test_an_id_that_no_header_can_carry_reaches_the_server(client: AsyncClient) -> None:
    """The server, not the transport, is the one to refuse it."""
    with pytest.raises(ServerError, match="there is no session") as caught:
        await client.get_session("é\n")
    assert caught.value.code == "NOT_FOUND"


async def test_metadata_of_client_and_call_both_arrive(address: str, service: FakeService) -> None:
    """A proxy's token is set once on the client, a request's own mark on the request."""
    async with AsyncClient(address, metadata=[("token", "t")]) as client:
        await client.models(metadata=[("mark", "m")])
    assert service.metadata[0]["token"] == "t"
    assert service.metadata[0]["mark"] == "m"


async def test_an_error_tells_what_the_server_attached(client: AsyncClient) -> None:
    """A program can read the code, stable reason, facts and retry time."""
    with pytest.raises(ServerError, match="too many turns") as caught:
        await read(client.generate("overload"))
    error = caught.value
    assert (error.code, error.reason, error.retry_after_seconds) == ("RESOURCE_EXHAUSTED", "OVERLOADED", 0.25)
    assert error.details == {"limit": "max_queued_turns"}


async def test_errors_are_read_in_full(client: AsyncClient) -> None:
    """This holds for unary and streamed calls; a failed predictor stays failed, and leaving its block raises nothing
    more."""
    with pytest.raises(ServerError) as caught:
        await client.get_session("nobody")
    assert caught.value.reason == "SESSION_NOT_FOUND"
    async with client.predictor() as predict:
        for prompt in ("bad", "good"):
            with pytest.raises(ServerError) as caught:
                await predict(prompt)
            assert caught.value.violations[0].field == "sampling.top_p"


async def test_an_unreachable_server_says_where_it_was_sought() -> None:
    """Nothing listens on port 1; a plain call, a stream and a predictor's request report that alike."""
    async with AsyncClient("127.0.0.1:1") as client:
        for ask in (lambda: client.models(), lambda: client.predict("a"), lambda: read(client.generate("a"))):
            with pytest.raises(ServerUnreachable, match="127.0.0.1:1") as caught:
                await ask()
            assert (caught.value.code, caught.value.reason, caught.value.address) == ("UNAVAILABLE", "", "127.0.0.1:1")


async def test_watching_a_server_that_is_not_there_fails() -> None:
    """The error comes with the first read, as for any stream."""
    async with AsyncClient("127.0.0.1:1") as client:
        events = await client.watch()
        with pytest.raises(ServerUnreachable):
            await anext(events)


async def test_a_plain_call_is_made_once(client: AsyncClient, service: FakeService) -> None:
    """Without a session, a retry cannot be distinguished from a second request."""
    service.mishaps = [Mishap(1)]
    with pytest.raises(ServerUnreachable):
        await read(client.generate("a"))
    assert len(service.requests) == 1


async def test_a_closed_client_fails_what_is_still_asked(address: str, service: FakeService) -> None:
    """This holds for a plain call and for a predictor's request; the waiting task itself is not cancelled."""
    client = AsyncClient(address)
    asking = Running(lambda: client.predict(WAIT))
    assert await happens(service.is_waiting)
    service.may_answer.clear()
    telling = Running(lambda: client.model())
    assert await happens(service.is_holding)
    await client.close()
    service.may_answer.set()
    for waiting in (asking, telling):
        with pytest.raises(ServerError) as caught:
            await waiting.result()
        assert caught.value.code == "CANCELLED"

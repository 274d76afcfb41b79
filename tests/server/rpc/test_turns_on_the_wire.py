"""Each call over a real port answers what the oracle says, in the form that was asked for."""

import grpc
import pytest
from tests.server.rpc.served_house import GREEDY, drain, served, text

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2


async def test_generate_streams_tokens_and_ends_once() -> None:
    """Tokens and text come in pieces that join to the oracle's; only the last carries `finished`."""
    async with served() as house:
        request = wire.GenerateRequest(input=text("abc"), sampling=GREEDY, max_tokens=20, num_log_probabilities=2)
        messages = await drain(house.model.Generate(request))
        assert [one.HasField("finished") for one in messages] == [False] * (len(messages) - 1) + [True]
        oracle = house.world.oracle
        expected, _ = oracle.greedy(oracle.start(), (1, 2, 3), 20)
        found = [token for one in messages for token in one.tokens]
        assert [token.id for token in found] == expected
        assert all(token.HasField("log_probability") and len(token.candidates) == 2 for token in found)
        assert "".join(one.text for one in messages) == house.world.plan.tokenizer.decode(expected)
        end = messages[-1].finished
        assert (end.reason, end.position, end.num_input_tokens) == (wire.Finished.REASON_LENGTH, 23, 3)
        assert (end.num_generated_tokens, end.seed) == (20, 1)


@pytest.mark.parametrize(
    ("content", "has_ids", "has_text"),
    [
        (wire.GenerateRequest.CONTENT_UNSPECIFIED, True, True),
        (wire.GenerateRequest.CONTENT_BOTH, True, True),
        (wire.GenerateRequest.CONTENT_IDS, True, False),
        (wire.GenerateRequest.CONTENT_TEXT, False, True),
    ],
)
async def test_generate_answers_what_was_wanted(
    content: wire.GenerateRequest.Content, has_ids: bool, has_text: bool
) -> None:
    """The answer has ids, text or both, as asked, and no log-probabilities unless asked."""
    async with served() as house:
        request = wire.GenerateRequest(input=text("a"), sampling=GREEDY, max_tokens=9, content=content)
        messages = await drain(house.model.Generate(request))
        found = [token for one in messages for token in one.tokens]
        assert bool(found) == has_ids
        assert not any(token.HasField("log_probability") or token.candidates for token in found)
        assert bool("".join(one.text for one in messages)) == has_text
        assert messages[-1].finished.num_generated_tokens == 9


async def test_state_is_carried_from_request_to_request() -> None:
    """Requests on a session continue each other over Generate, Predict and Score alike."""
    async with served() as house:
        await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest(session_id="s"))
        await drain(house.model.Score(wire.ScoreRequest(session_id="s", input=text("ab"))))
        stream = house.model.Predict(iter([wire.PredictRequest(session_id="s", input=text("c"))]))
        assert [one.position for one in await drain(stream)] == [3]
        messages = await drain(
            house.model.Generate(wire.GenerateRequest(session_id="s", input=text("d"), sampling=GREEDY, max_tokens=5))
        )
        oracle = house.world.oracle
        expected, _ = oracle.greedy(oracle.start(), (1, 2, 3, 4), 5)
        assert [token.id for one in messages for token in one.tokens] == expected
        session = await house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id="s"))
        assert session.position == messages[-1].finished.position == 9


async def test_predict_without_a_session_carries_its_own_state() -> None:
    """Each message goes on where the one before stopped, an empty one asks again, and words come when asked for."""
    async with served() as house:
        stream = house.model.Predict()
        await stream.write(wire.PredictRequest(input=text("ab"), k=3))
        first = await stream.read()
        await stream.write(wire.PredictRequest(input=text("c"), k=3))
        second = await stream.read()
        await stream.write(wire.PredictRequest(k=3, word_prefix="d"))
        third = await stream.read()
        await stream.done_writing()
        assert await stream.read() == grpc.aio.EOF
        assert [one.position for one in (first, second, third)] == [2, 3, 3]
        assert list(second.candidates) == list(third.candidates)
        assert len(first.candidates) == 3
        assert third.words
        logits_V = house.world.oracle.logits(house.world.oracle.feed(house.world.oracle.start(), (1, 2, 3)))
        assert second.candidates[0].id == int(logits_V.argmax())
        assert await house.world.store.num_live() == 0


async def test_score_rates_every_token() -> None:
    """All tokens come, in order, and the last message has the totals."""
    async with served() as house:
        messages = await drain(house.model.Score(wire.ScoreRequest(input=text("abcabc" * 20), g=3)))
        found = [token for one in messages for token in one.tokens]
        assert "".join(token.text for token in found) == "abcabc" * 20
        totals = messages[-1].totals
        assert totals.num_tokens == totals.position == 120
        assert totals.num_hits == sum(token.rank <= 3 for token in found)
        assert totals.log_probability == pytest.approx(sum(token.log_probability for token in found), rel=1e-5)


async def test_tokenize_and_detokenize_are_opposites() -> None:
    """Text becomes ids with their texts, and comes back."""
    async with served() as house:
        found = await house.model.Tokenize(wire.TokenizeRequest(text="abc\n"))
        assert [(token.id, token.text) for token in found.tokens] == [(1, "a"), (2, "b"), (3, "c"), (15, "\n")]
        back = await house.model.Detokenize(wire.DetokenizeRequest(ids=[token.id for token in found.tokens]))
        assert back.text == "abc\n"


async def test_the_model_is_described() -> None:
    """GetModel by any of its names and ListModels give the same description."""
    async with served() as house:
        one = await house.model.GetModel(wire.GetModelRequest(model="toy"))
        assert (one.name, one.digest, one.provider) == ("toy", house.world.manifest.digest, "cpu")
        assert (one.vocabulary_size, one.state_bytes, one.limits.max_message_bytes) == (16, 24, 1_048_576)
        assert list((await house.model.ListModels(wire.ListModelsRequest())).models) == [one]


async def test_the_life_of_a_session() -> None:
    """The session is created, read, listed in pages and deleted."""
    async with served() as house:
        made = []
        for _ in range(5):
            made.append(await house.sessions.CreateSession(sessions_pb2.CreateSessionRequest()))
            house.world.clock.advance(1)
        assert len({one.session_id for one in made}) == 5
        got = await house.sessions.GetSession(sessions_pb2.GetSessionRequest(session_id=made[2].session_id))
        assert got == made[2]
        assert (got.model, got.position, got.model_digest) == ("toy", 0, house.world.manifest.digest)
        assert got.expire_time.seconds == got.create_time.seconds + 100
        listed, page_token = [], ""
        for size in (2, 2, 1):
            request = sessions_pb2.ListSessionsRequest(page_size=2, page_token=page_token)
            page = await house.sessions.ListSessions(request)
            assert len(page.sessions) == size
            listed.extend(page.sessions)
            page_token = page.next_page_token
        assert (listed, page_token) == (made, "")
        await house.sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session_id=made[0].session_id))
        left = await house.sessions.ListSessions(sessions_pb2.ListSessionsRequest())
        assert list(left.sessions) == made[1:]

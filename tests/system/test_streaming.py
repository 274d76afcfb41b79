"""What a client gets over the wire from a trained, exported and served model."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tests.server_process import ServerProcess

from carousel.client import AsyncClient, Client, Prediction
from carousel_training.checkpoint import load_model

pytestmark = pytest.mark.slow

PARTS = ["The carousel ", "turns and the ", "horses "]


def test_a_conversation_in_several_requests_equals_the_same_text_in_one(server: ServerProcess) -> None:
    """Fed in three requests or in one, the session continues with the same tokens at the same position."""
    with Client(server.grpc_address) as client, client.session() as in_parts, client.session() as at_once:
        for part in PARTS[:-1]:
            in_parts.feed(part)
        answers = [
            list(in_parts.generate(PARTS[-1], max_tokens=60, temperature=0)),
            list(at_once.generate("".join(PARTS), max_tokens=60, temperature=0)),
        ]
    texts = ["".join(piece.text for piece in answer) for answer in answers]
    ids = [[token.id for piece in answer for token in piece.tokens] for answer in answers]
    ends = [answer[-1].finished for answer in answers]
    assert texts[0] == texts[1]
    assert ids[0] == ids[1]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].position == ends[1].position == len("".join(PARTS)) + 60


def test_a_generation_in_several_requests_equals_one_long_generation(server: ServerProcess) -> None:
    """Ten tokens at a time, seeded, give the tokens of one long seeded request."""
    with Client(server.grpc_address) as client, client.session() as short, client.session() as long:
        options: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "seed": 11}
        pieces = list(short.generate("A child ", max_tokens=10, **options))
        for _ in range(3):
            pieces += short.generate("", max_tokens=10, **options)
        whole = list(long.generate("A child ", max_tokens=40, **options))
    assert [t.id for p in pieces for t in p.tokens] == [t.id for p in whole for t in p.tokens]


def test_greedy_text_equals_the_pytorch_models(server: ServerProcess, checkpoint: Path) -> None:
    """256 greedy tokens over the wire equal those of the trained network."""
    trained = load_model(checkpoint)
    prompt = trained.tokenizer.encode("The ")
    expected: list[int] = []
    with torch.inference_mode():
        state = trained.model.initial_state(1)
        ids = torch.tensor([[trained.tokenizer.start_id, *prompt]])
        for _ in range(256):
            logits_BTV, state = trained.model(ids, state)
            expected.append(int(logits_BTV[0, -1].argmax()))
            ids = torch.tensor([expected[-1:]])
    with Client(server.grpc_address) as client:
        pieces = list(client.generate("The ", max_tokens=256, temperature=0))
    assert [token.id for piece in pieces for token in piece.tokens] == expected
    assert "".join(piece.text for piece in pieces) == trained.tokenizer.decode(expected)


async def test_sixty_four_streams_get_what_each_gets_alone(server: ServerProcess) -> None:
    """Concurrent greedy and sampled streams equal the same requests in sequence."""

    async def generate(client: AsyncClient, number: int) -> list[int]:
        options: dict[str, Any] = {"temperature": 0.0 if number % 2 else 0.8, "seed": number}
        prompt = "The music plays. "[: 1 + number % 16]
        return [
            token.id
            async for piece in client.generate(prompt, max_tokens=8 + number % 9, **options)
            for token in piece.tokens
        ]

    async with AsyncClient(server.grpc_address) as client:
        together = await asyncio.gather(*(generate(client, number) for number in range(64)))
        alone = [await generate(client, number) for number in range(64)]
    assert together == alone


def test_stop_strings_straddle_tokens_and_stay_in_the_session(server: ServerProcess) -> None:
    """Text ends before the stop string, which the byte tokens spell one by one; the position counts them."""
    options: dict[str, Any] = {
        "max_tokens": 60,
        "temperature": 0,
    }  # what was learned differs between kinds of processors
    with Client(server.grpc_address) as client, client.session() as session:
        whole = "".join(piece.text for piece in client.generate("The carousel ", **options))
        stop = next(whole[at : at + 6] for at in range(3, 50) if whole.find(whole[at : at + 6]) == at)
        pieces = list(session.generate("The carousel ", stop=[stop], **options))
        text = "".join(piece.text for piece in pieces)
        end = pieces[-1].finished
        assert end is not None
        assert (end.reason, end.stop) == ("stop", stop)
        assert text == whole[: whole.index(stop)]
        assert session.get().position == len("The carousel ") + len(text) + len(stop)


def test_score_of_known_text_is_better_than_of_unknown(server: ServerProcess) -> None:
    """The model finds its training text likelier than the same letters shuffled; totals are the sum of the tokens."""
    known = "The carousel turns and the horses rise and fall;"
    with Client(server.grpc_address) as client:
        pieces = {text: list(client.score(text)) for text in (known, known[::-1])}
    tokens = {text: [token for piece in of_text for token in piece.tokens] for text, of_text in pieces.items()}
    totals, of_unknown = (of_text[-1].totals for of_text in pieces.values())
    assert "".join(token.text for token in tokens[known]) == known
    assert totals is not None
    assert of_unknown is not None
    assert totals.log_probability > of_unknown.log_probability
    assert abs(totals.log_probability - sum(token.log_probability for token in tokens[known])) < 1e-3


def test_predict_completes_words(server: ServerProcess) -> None:
    """After text it has memorised, the model completes the unfinished word; the prefix is not fed."""
    with Client(server.grpc_address) as client, client.session() as session, session.predictor() as predict:
        fed = predict("The carousel turns and the hor", k=3)
        completed = predict("", word_prefix="ses")
        words = predict("", k=0, word_prefix="s")
    assert fed.position == completed.position == words.position
    assert words.words[0].text == "ses"


def test_the_api_describes_itself(server: ServerProcess) -> None:
    """Reflection lists our services and health with their methods."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert {"carousel.v1.LanguageModel", "carousel.v1.Sessions", "grpc.health.v1.Health"} <= services
        file = database.FindFileContainingSymbol("carousel.v1.LanguageModel")
        assert "Generate" in {method.name for service in file.service for method in service.method}


async def test_conversations_on_shared_streams_equal_those_on_their_own(server: ServerProcess) -> None:
    """Twenty sessions and twenty sequences without one, token by token: candidates and positions to the bit."""

    async def converse(predictors: list[Any]) -> list[list[Prediction]]:
        async def follow(predict: Any, first: int) -> list[Prediction]:
            answers = [await predict([first], k=3)]
            for _ in range(6):
                answers.append(await predict([answers[-1].candidates[-1].id], k=3))
            return answers

        return await asyncio.gather(*(follow(predict, 97 + number) for number, predict in enumerate(predictors)))

    found = []
    for shares_streams in (True, False):
        async with AsyncClient(server.grpc_address, shares_streams=shares_streams) as client:
            sessions = [client.open_session((await client.create_session()).session_id) for _ in range(20)]
            predictors: list[Any] = [*(one.predictor() for one in sessions), *(client.predictor() for _ in range(20))]
            async with contextlib.AsyncExitStack() as stack:
                entered = [await stack.enter_async_context(one) for one in predictors]
                found.append(await converse(entered))
            assert [(await one.get()).position for one in sessions] == [7] * 20
    assert found[0] == found[1]

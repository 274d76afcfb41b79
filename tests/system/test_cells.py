"""Every cell works from network to bundle, server and client; and no cell mixes its sequences."""

import asyncio
import base64
from pathlib import Path

import pytest
import torch
from tests.fakes import byte_tokenizer

from carousel.app import running
from carousel.client import AsyncClient
from carousel.settings import read_settings
from carousel_export.bundle_writer import write_files
from carousel_training.cells.registry import CELLS
from carousel_training.checkpoint import TrainedModel
from carousel_training.model import ModelConfig, RecurrentLM
from carousel_training.settings import ModelSettings

pytestmark = pytest.mark.slow

SEAL_KEY = base64.b64encode(bytes(range(32))).decode()
ADDRESSES = {"listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0"}
SETTINGS = read_settings({}, {**ADDRESSES, "max_chunk_tokens": "8", "seal_keys": SEAL_KEY})
KINDS = [*((cell, "plain") for cell in CELLS), ("lstm", "residual"), ("clockwork", "residual"), ("mlstm", "residual")]
PROMPT = b"The carousel turns and the horses rise and fall."


def _random_network(cell: str, block: str, hidden_size: int = 32, num_layers: int = 2) -> TrainedModel:
    torch.manual_seed(3)
    config = ModelConfig(256, cell, num_layers, hidden_size, 16, tied=False, dropout=0.0, block=block)
    return TrainedModel(RecurrentLM(config).eval(), byte_tokenizer(), {})


def _greedy(network: TrainedModel, prompt: bytes, num_tokens: int) -> list[int]:
    """Returns the PyTorch network's tokens, one at a time."""
    ids, state, said = torch.tensor([[network.tokenizer.start_id, *prompt]]), network.model.initial_state(1), []
    with torch.inference_mode():
        for _ in range(num_tokens):
            logits_BTV, state = network.model(ids, state)
            said.append(int(logits_BTV[0, -1].argmax()))
            ids = torch.tensor([said[-1:]])
    return said


async def _generate(client: AsyncClient, prompt: list[int], num_tokens: int, session_id: str = "") -> list[int]:
    stream = client.generate(prompt, max_tokens=num_tokens, temperature=0, session_id=session_id)
    return [token.id async for piece in stream for token in piece.tokens]


@pytest.mark.parametrize(("cell", "block"), KINDS)
async def test_a_cell_is_served_as_it_was_trained(cell: str, block: str, tmp_path: Path) -> None:
    """Greedy tokens equal the network's; in several requests as in one; and bit-identical among 20 streams."""
    network = _random_network(cell, block)
    write_files(network, tmp_path, cell)
    async with running(tmp_path, SETTINGS) as server, AsyncClient(server.grpc_address) as client:
        assert (await client.model()).cell == cell
        assert await _generate(client, list(PROMPT), 40) == _greedy(network, PROMPT, 40)
        session = await client.create_session()
        parts = [list(PROMPT[:5]), list(PROMPT[5:30]), list(PROMPT[30:])]
        for part in parts[:-1]:
            await _generate(client, part, 0, session.session_id)
        in_parts = await _generate(client, parts[-1], 40, session.session_id)
        assert in_parts == _greedy(network, PROMPT, 40)
        prompts = [list(PROMPT[: 2 * number + 1]) for number in range(20)]
        together = await asyncio.gather(*(_generate(client, prompt, 12) for prompt in prompts))
        assert together == [await _generate(client, prompt, 12) for prompt in prompts]


@pytest.mark.parametrize(("cell", "block"), KINDS)
async def test_a_state_of_any_shapes_is_held_sealed_and_moved(cell: str, block: str, tmp_path: Path) -> None:
    """At the default width: a stream that holds the session, a sealed copy small enough to send back, a fork and a
    rewind all go on as the session does, to the same probabilities bit for bit."""
    defaults = ModelSettings()
    network = _random_network(cell, block, defaults.hidden_size, defaults.num_layers)
    write_files(network, tmp_path, cell)
    async with (
        running(tmp_path, SETTINGS) as server,
        AsyncClient(server.grpc_address) as client,
        client.session() as session,
        session.predictor() as predict,
    ):
        for letter in PROMPT[:20]:
            await predict([letter], k=3)
        sealed = await session.export()
        assert len(sealed) < SETTINGS.max_message_bytes
        moved = await client.import_session(sealed)
        (forked,) = await client.fork_session(session.session_id)
        expected = (await predict(list(PROMPT[20:]), k=5)).candidates
        await session.rewind(position=20)
        for session_id in (moved.session_id, forked.session_id, session.session_id):
            async with client.open_session(session_id).predictor() as again:
                assert (await again(list(PROMPT[20:]), k=5)).candidates == expected

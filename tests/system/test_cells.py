"""Every cell goes the whole way: network, bundle, server, client; and none lets its sequences see each other."""

import asyncio
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

SETTINGS = read_settings({}, {"listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0", "max_chunk_tokens": "8"})
PROMPT = b"The carousel turns and the horses rise and fall."


def _random_network(cell: str) -> TrainedModel:
    torch.manual_seed(3)
    config = ModelConfig(256, cell, num_layers=2, hidden_size=32, embedding_size=16, tied=False, dropout=0.0)
    return TrainedModel(RecurrentLM(config).eval(), byte_tokenizer(), {})


def _greedy(network: TrainedModel, prompt: bytes, num_tokens: int) -> list[int]:
    """What the PyTorch network says, one token at a time."""
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


@pytest.mark.parametrize("cell", CELLS)
async def test_a_cell_is_served_as_it_was_trained(cell: str, tmp_path: Path) -> None:
    """Greedy tokens are the network's; in several requests as in one; and among 20 streams as alone."""
    network = _random_network(cell)
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

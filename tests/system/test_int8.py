"""A model with eight-bit products is served like any other: the graphs' own tokens, in any batch."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fakes import byte_tokenizer

from carousel.app import running
from carousel.bundle.manifest import Bundle
from carousel.client import AsyncClient
from carousel.engine.model import OnnxModel
from carousel.settings import read_settings
from carousel_export.bundle_writer import write_files
from carousel_export.cell_exports import INT8_CELLS
from carousel_export.precision import Precision
from carousel_training.checkpoint import TrainedModel
from carousel_training.model import ModelConfig, RecurrentLM

pytestmark = pytest.mark.slow

SETTINGS = read_settings({}, {"listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0", "max_chunk_tokens": "8"})
PROMPT = b"The carousel turns and the horses rise and fall."


@pytest.fixture(params=list(INT8_CELLS))
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(3)
    config = ModelConfig(256, request.param, num_layers=2, hidden_size=32, embedding_size=16, tied=False, dropout=0.0)
    write_files(TrainedModel(RecurrentLM(config).eval(), byte_tokenizer(), {}), tmp_path, "int8", Precision.INT8)
    return tmp_path


def greedy(bundle: Path, prompt: bytes, num_tokens: int) -> list[int]:
    """Returns the graphs' tokens, one at a time."""
    loaded = Bundle.load(bundle)
    model, said = OnnxModel(loaded), list[int]()
    ids, state = [loaded.manifest.start_id, *prompt], model.layout.initial(1)
    for _ in range(num_tokens):
        hidden_BTH, state = model.core(np.array([ids]), np.full(1, len(ids), np.int32), state)
        ids = model.candidates(hidden_BTH[0, -1:], 1).ids_NK[0].tolist()
        said += ids
    return said


async def generate(client: AsyncClient, prompt: bytes, num_tokens: int, session_id: str = "") -> list[int]:
    stream = client.generate(list(prompt), max_tokens=num_tokens, temperature=0, session_id=session_id)
    return [token.id async for piece in stream for token in piece.tokens]


async def test_a_rounded_model_is_served_as_its_graphs_are(bundle: Path) -> None:
    """Greedy tokens are the graphs'; in several requests as in one; and the same among 20 streams."""
    async with running(bundle, SETTINGS) as server, AsyncClient(server.grpc_address) as client:
        expected = greedy(bundle, PROMPT, 40)
        assert await generate(client, PROMPT, 40) == expected
        session = await client.create_session()
        for part in (PROMPT[:5], PROMPT[5:30]):
            await generate(client, part, 0, session.session_id)
        assert await generate(client, PROMPT[30:], 40, session.session_id) == expected
        prompts = [PROMPT[: 2 * number + 1] for number in range(20)]
        together = await asyncio.gather(*(generate(client, prompt, 12) for prompt in prompts))
        assert together == [await generate(client, prompt, 12) for prompt in prompts]

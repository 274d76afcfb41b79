"""A server with OpenAI's interface, and OpenAI's own client for it. A module with other settings has its own server."""

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
from tests.server.running_app import LOCAL

from carousel.app import Running, running
from carousel.settings import Settings

SETTINGS = Settings(**LOCAL, openai_listen="127.0.0.1:0")


@pytest.fixture
async def server(bundle: Path) -> AsyncIterator[Running]:
    async with running(bundle, SETTINGS) as server:
        yield server


@pytest.fixture
async def client(server: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"http://{server.openai_address}/v1", api_key="none", max_retries=0
    ) as client:
        yield client

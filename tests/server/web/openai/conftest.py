"""OpenAI's own client for the server, and a plain one."""

from collections.abc import AsyncIterator

import httpx2 as httpx
import openai
import pytest

from carousel.app import Running


def connect(server: Running, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://{server.openai_address}/v1", api_key=key, max_retries=0)


@pytest.fixture
async def client(server: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with connect(server) as client:
        yield client


@pytest.fixture
async def http(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{server.openai_address}", timeout=20) as http:
        yield http

"""What the server of our own routes needs, a client over HTTP, and one over gRPC to compare with."""

import base64
from collections.abc import AsyncIterator

import httpx2 as httpx
import pytest
from tests.server.running_app import LOCAL

from carousel.app import Running
from carousel.client import AsyncClient
from carousel.settings import Settings

SETTINGS = Settings(**LOCAL, openai_listen="127.0.0.1:0", seal_keys=base64.b64encode(bytes(32)).decode())


@pytest.fixture
def settings() -> Settings:
    return SETTINGS


@pytest.fixture
async def http(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    base = f"http://{server.openai_address}/carousel/v1"
    async with httpx.AsyncClient(base_url=base, timeout=20) as http:
        yield http


@pytest.fixture
async def ours(server: Running) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.grpc_address) as client:
        yield client

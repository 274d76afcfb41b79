"""A server with the web address. A module that needs other settings or another bundle says so by a fixture."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.server.running_app import LOCAL

from carousel.app import Running, running
from carousel.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings(**LOCAL, openai_listen="127.0.0.1:0")


@pytest.fixture
def served_bundle(bundle: Path) -> Path:
    return bundle


@pytest.fixture
async def server(served_bundle: Path, settings: Settings) -> AsyncIterator[Running]:
    async with running(served_bundle, settings) as server:
        yield server

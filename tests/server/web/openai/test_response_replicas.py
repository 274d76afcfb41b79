"""Two servers on one Redis answer as one: ids of either work at both, and a request happens once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response
from tests.server.running_app import LOCAL
from tests.server.state.conftest import run_redis

from carousel.app import running
from carousel.settings import Settings

OPTIONS: dict[str, Any] = {"model": "tiny", "input": "hello", "max_output_tokens": 200, "temperature": 5}


@pytest.fixture
async def clients(bundle: Path, tmp_path: Path) -> AsyncIterator[list[openai.AsyncOpenAI]]:
    async with contextlib.AsyncExitStack() as stack:
        url = stack.enter_context(run_redis(tmp_path)).url
        settings = Settings(**LOCAL, openai_listen="127.0.0.1:0", store=url)
        found = []
        for _ in range(2):
            server = await stack.enter_async_context(running(bundle, settings))
            client = openai.AsyncOpenAI(base_url=f"http://{server.openai_address}/v1", api_key="none", max_retries=5)
            found.append(await stack.enter_async_context(client))
        yield found


def session_of(response: Response) -> str:
    assert response.model_extra is not None
    return str(response.model_extra["session_id"])


async def test_ids_of_one_work_at_the_other(clients: list[openai.AsyncOpenAI]) -> None:
    """Going on, forking, reading and deleting."""
    one, other = clients
    first = await one.responses.create(**OPTIONS)
    second = await other.responses.create(previous_response_id=first.id, **OPTIONS)
    fork = await one.responses.create(previous_response_id=first.id, **OPTIONS)
    assert session_of(first) == session_of(second) != session_of(fork)
    assert await one.responses.retrieve(second.id) == second
    await one.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        await other.responses.retrieve(second.id)
    assert await other.responses.retrieve(fork.id) == fork


async def test_of_two_at_once_one_forks(clients: list[openai.AsyncOpenAI]) -> None:
    """Whichever server they reach."""
    first = await clients[0].responses.create(**OPTIONS)
    made = await asyncio.gather(
        *[one.responses.create(previous_response_id=first.id, **OPTIONS) for one in (*clients, *clients)]
    )
    found = [session_of(one) for one in made]
    assert len(set(found)) == 4
    assert session_of(first) in found


@pytest.mark.parametrize("kind", ["first", "newest", "older"])
async def test_a_key_is_one_request_for_both(clients: list[openai.AsyncOpenAI], kind: str) -> None:
    """At once: the client repeats what lost the race, and gets the other's answer."""
    options = OPTIONS | {"extra_headers": {"Idempotency-Key": "k"}}
    if kind != "first":
        options["previous_response_id"] = (await clients[0].responses.create(**OPTIONS)).id
    if kind == "older":
        await clients[0].responses.create(**(OPTIONS | {"previous_response_id": options["previous_response_id"]}))
    made = await asyncio.gather(*[one.responses.create(**options) for one in (*clients, *clients)])
    assert all(one == made[0] for one in made)

"""A client with a token shows it with every call, and shows it to nobody else."""

import pytest
from tests.server.fake_service import serve_fake

from carousel.client import AsyncClient

SECONDS = 20
TOKEN = "crl_" + "t" * 43


async def test_every_call_carries_the_token() -> None:
    """Single ones, streams and what predictors share; beside the client's own metadata and the call's."""
    with serve_fake() as (address, service, _):
        async with AsyncClient(
            address, token=TOKEN, timeout_seconds=SECONDS, metadata=[("x-team", "search")]
        ) as client:
            await client.models()
            assert [piece async for piece in client.generate("a", metadata=[("x-call", "1")])]
            await client.predict("a")
            async with client.predictor(timeout_seconds=SECONDS) as predict:
                await predict("a")
            await client.create_session()
        methods = {call.method for call in service.seen}
        assert methods & {"Predict", "PredictMany"}
        assert methods >= {"ListModels", "Generate", "CreateSession"}
        assert {(call.metadata["authorization"], call.metadata["x-team"]) for call in service.seen} == {
            (f"Bearer {TOKEN}", "search")
        }


async def test_without_a_token_there_is_none() -> None:
    with serve_fake() as (address, service, _):
        async with AsyncClient(address, timeout_seconds=SECONDS) as client:
            await client.models()
        assert all("authorization" not in call.metadata for call in service.seen)


async def test_a_token_does_not_leave_this_machine_unencrypted() -> None:
    """Unless the caller says so; with encryption it may."""
    with pytest.raises(ValueError, match=r"server\.example:1 unencrypted"):
        AsyncClient("server.example:1", token=TOKEN)
    for options in ({"tls": True}, {"plaintext_token": True}):
        async with AsyncClient("server.example:1", token=TOKEN, **options) as client:  # type: ignore[arg-type]
            assert TOKEN not in repr(client)

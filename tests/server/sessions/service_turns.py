"""What the tests of the service share: whole turns of a caller."""

import asyncio
from collections.abc import AsyncIterator

from tests.worlds import World

from carousel.sessions.requests import (
    Caller,
    GenerationEnd,
    GenerationPiece,
    GenerationRequest,
    ScoredToken,
    ScoreTotals,
    ScoringRequest,
)
from carousel.turns import SamplingOptions

GREEDY = SamplingOptions(temperature=0, seed=0)
ANN = Caller("ann", "s")


async def generate(world: World, caller: Caller, request: GenerationRequest) -> tuple[list[int], str, GenerationEnd]:
    pieces: list[GenerationPiece] = [piece async for piece in world.sessions.generate(caller, request)]
    assert [piece.end is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    end = pieces[-1].end
    assert end is not None
    return [token.id for piece in pieces for token in piece.tokens], "".join(piece.text for piece in pieces), end


async def score(world: World, caller: Caller, request: ScoringRequest) -> tuple[list[ScoredToken], ScoreTotals]:
    pieces = [piece async for piece in world.sessions.score(caller, request)]
    totals = pieces[-1].totals
    assert totals is not None
    assert all(piece.totals is None for piece in pieces[:-1])
    return [token for piece in pieces for token in piece.tokens], totals


async def settle(world: World) -> None:
    """Waits until every lane is free; one that was given up is freed at the next step."""
    async with asyncio.timeout(10):
        while not world.is_idle:
            await asyncio.sleep(0)


async def collect(pieces: AsyncIterator[GenerationPiece]) -> list[GenerationPiece]:
    return [piece async for piece in pieces]

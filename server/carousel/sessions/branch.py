"""One generation in progress, and several at once: with n above 1, branches fork from the fed input."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

from carousel.bundle.tokenizer import Tokenizer
from carousel.sessions.answers import GenerationAnswer
from carousel.sessions.requests import GenerationEnd, GenerationPiece, GenerationRequest, Standing
from carousel.sessions.text import StopFinder, TextStream, pending_bytes
from carousel.turns import Ended, Generate, Generated, Sampling, Snapshot, Turn

Item = TypeVar("Item")


class Branch:
    """Turns the engine's tokens into pieces. `fed` is where the input led, when that was run already."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        request: GenerationRequest,
        origin: Snapshot,
        ids: tuple[int, ...],
        sampling: Sampling,
        *,
        number: int = 0,
        fed: Snapshot | None = None,
        keeps_state: bool,
    ) -> None:
        self.number = number
        self._request = request
        self._origin = origin
        self._ids = ids
        self._sampling = sampling
        self._fed = fed
        self._keeps_state = keeps_state
        tail = pending_bytes(tokenizer, origin.tail, ids)
        self._stream = TextStream(tokenizer, tail, request.stop)
        self._finder = StopFinder(tokenizer, tail, request.stop) if request.stop else None
        self._tokens: list[Generated] = []
        self._text: list[str] = []

    def turn(self) -> Turn:
        goal = Generate(
            self._sampling,
            self._request.max_tokens,
            frozenset(self._request.stop_ids),
            self._request.num_log_probabilities,
            self._finder.push if self._finder is not None else None,
        )
        if self._fed is not None:
            return Turn(self._fed, (), goal, self._keeps_state)
        return Turn(self._origin, self._ids, goal, self._keeps_state)

    def piece(self, tokens: tuple[Generated, ...], ended: Ended | None) -> GenerationPiece:
        """What has come since the last piece; the last one has an end whose standing is not saved yet."""
        self._tokens.extend(tokens)
        self._stream.push_all([token.id for token in tokens if token.id not in self._request.stop_ids])
        text = self._stream.take() if ended is None else self._stream.finish()
        self._text.append(text)
        return GenerationPiece(tokens, text, self._end(ended) if ended is not None else None, self.number)

    def consumed(self) -> tuple[int, ...]:
        """All ids since the origin."""
        return (*self._ids, *(token.id for token in self._tokens))

    def answer(self, end: GenerationEnd) -> GenerationAnswer:
        return GenerationAnswer(tuple(self._tokens), "".join(self._text), end)

    def _end(self, ended: Ended) -> GenerationEnd:
        num_generated = len(self._tokens)
        standing = Standing(self._origin.position + len(self._ids) + num_generated, 0)
        stop = self._stream.stop
        return GenerationEnd(ended.reason, stop, standing, len(self._ids), num_generated, self._sampling.seed)


async def merge(sources: Sequence[AsyncGenerator[Item]]) -> AsyncGenerator[Item]:
    """Items of all sources as they come. What one source raises is raised here, and ends the others."""
    arrived: asyncio.Queue[Item | Exception | None] = asyncio.Queue()

    async def pump(source: AsyncGenerator[Item]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    arrived.put_nowait(item)
            arrived.put_nowait(None)
        except Exception as error:
            arrived.put_nowait(error)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    try:
        num_running = len(tasks)
        while num_running:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""One generation in progress, or several: with n above 1, branches fork after the input."""

import array
import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

from carousel.bundle.tokenizer import Tokenizer
from carousel.sessions.answers import GenerationAnswer
from carousel.sessions.requests import GenerationEnd, GenerationPiece, GenerationRequest, Standing
from carousel.sessions.text import StopFinder, TextStream, pending_bytes
from carousel.traces import UNRECORDED, Timeline
from carousel.turns import Ended, Generate, Generated, Sampling, Snapshot, Turn

Item = TypeVar("Item")


# The least that a token and a candidate take in a record's JSON.
_TOKEN_BYTES = len('{"id":0,"log_probability":0.0,"candidates":[]},')
_CANDIDATE_BYTES = len('{"id":0,"log_probability":0.0},')


class Branch:
    """Makes pieces from the engine's tokens. `fed` is the snapshot after the input, if the input was run already.

    The branch keeps its answer for the record while it can still fit into `max_answer_bytes`; None records nothing.
    """

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
        owner: str = "",
        timeline: Timeline = UNRECORDED,
        max_answer_bytes: int | None = None,
    ) -> None:
        self.number = number
        self._request = request
        self._origin = origin
        self._ids = ids
        self._sampling = sampling
        self._fed = fed
        self._keeps_state = keeps_state
        self._owner = owner
        self._timeline = timeline
        self._stop_ids = frozenset(request.stop_ids)
        tail = pending_bytes(tokenizer, origin.tail, ids)
        self._finder = StopFinder(tokenizer, tail, request.stop) if request.stop else None
        self._stream = TextStream(tokenizer, tail, self._finder)
        self._generated = array.array("i")
        self._kept = None if max_answer_bytes is None else _KeptAnswer(max_answer_bytes)

    def turn(self) -> Turn:
        goal = Generate(
            self._sampling,
            self._request.max_tokens,
            self._stop_ids,
            self._request.num_log_probabilities,
            self._finder.push if self._finder is not None else None,
        )
        start, ids = (self._origin, self._ids) if self._fed is None else (self._fed, ())
        return Turn(start, ids, goal, self._keeps_state, self._owner, self._timeline)

    def piece(self, tokens: tuple[Generated, ...], ended: Ended | None) -> GenerationPiece:
        """Returns the tokens and text since the last piece. The last piece has an end whose standing is not saved
        yet."""
        ids = [token.id for token in tokens]
        self._generated.extend(ids)
        if ids and ids[-1] in self._stop_ids:  # a stop id is always the last token
            ids.pop()
        self._stream.push_all(ids)
        text = self._stream.pop_final() if ended is None else self._stream.finish()
        if self._kept is not None and not self._kept.add(tokens, text):
            self._kept = None
        return GenerationPiece(tokens, text, self._end(ended) if ended is not None else None, self.number)

    def consumed(self) -> tuple[int, ...]:
        """Returns all ids since the origin."""
        return (*self._ids, *self._generated)

    def answer(self, end: GenerationEnd) -> GenerationAnswer | None:
        """Returns the answer to record, or None when none is recorded or it does not fit."""
        if self._kept is None:
            return None
        return GenerationAnswer(tuple(self._kept.tokens), "".join(self._kept.text), end)

    def _end(self, ended: Ended) -> GenerationEnd:
        num_generated = len(self._generated)
        standing = Standing(self._origin.position + len(self._ids) + num_generated, 0)
        stop = self._finder.stop if self._finder is not None else ""
        return GenerationEnd(ended.reason, stop, standing, len(self._ids), num_generated, self._sampling.seed)


class _KeptAnswer:
    """The tokens and the text so far, while their record can still fit into `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.tokens: list[Generated] = []
        self.text: list[str] = []
        self._num_left = max_bytes

    def add(self, tokens: Sequence[Generated], text: str) -> bool:
        """Adds them. Returns whether the record can still fit."""
        num_candidates = sum([len(token.candidates) for token in tokens])
        self._num_left -= _TOKEN_BYTES * len(tokens) + _CANDIDATE_BYTES * num_candidates + len(text)
        if self._num_left < 0:
            return False
        self.tokens.extend(tokens)
        self.text.append(text)
        return True


async def merge(sources: Sequence[AsyncGenerator[Item]]) -> AsyncGenerator[Item]:
    """Yields the items of all sources as they come. An error in one source is raised here and ends the others."""
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

"""The use case: one turn of one session. Every transport calls this and nothing below it.

A turn takes its session (one at a time), feeds and runs it on the engine, and saves the new snapshot once, before its
last piece is handed out. Whatever goes wrong before that leaves the session where it was.
"""

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from carousel.bundle.manifest import Manifest
from carousel.bundle.tokenizer import TextDecoder, Tokenizer
from carousel.engine.engine import Engine
from carousel.errors import ModelNotFound
from carousel.metrics import Metrics
from carousel.sessions import checks, requests
from carousel.sessions.requests import (
    Caller,
    GenerationPiece,
    GenerationRequest,
    Prediction,
    PredictionRequest,
    ScoredToken,
    ScoreTotals,
    ScoringPiece,
    ScoringRequest,
)
from carousel.sessions.seats import Seats
from carousel.sessions.text import TextStream, pending_bytes
from carousel.sessions.words import WordSearch
from carousel.state.memory import Session, SessionTable
from carousel.turns import (
    Candidate,
    Event,
    Generate,
    Generated,
    Predict,
    Predicted,
    Sampling,
    Score,
    Scored,
    Snapshot,
    Turn,
)


class Sessions:
    """Turns on the sessions of one model, for callers that a transport has identified."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        engine: Engine,
        table: SessionTable,
        seats: Seats,
        limits: checks.Limits,
        metrics: Metrics,
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.limits = limits
        self._digest = manifest.digest
        self._engine = engine
        self._table = table
        self._seats = seats
        self._metrics = metrics
        self._words = WordSearch(tokenizer, engine.submit)

    def check_model(self, model: str) -> None:
        """Empty, the model's name and its digest are all right. Raises ModelNotFound."""
        if model not in ("", self.manifest.name, self._digest):
            raise ModelNotFound(f"there is no model {model}; this server holds {self.manifest.name}")

    def create(self, owner: str, session_id: str = "") -> Session:
        return self._table.create(owner, self._digest, self._engine.start_snapshot, session_id)

    def get(self, owner: str, session_id: str) -> Session:
        return self._table.get(session_id, owner)

    def list(self, owner: str, after_number: int, count: int) -> list[Session]:
        return self._table.list(owner, after_number, count)

    def delete(self, owner: str, session_id: str) -> None:
        self._table.delete(session_id, owner)

    async def generate(self, caller: Caller, request: GenerationRequest) -> AsyncGenerator[GenerationPiece]:
        """Pieces as they come, the last one with its end."""
        pace = _Pace(self._metrics)
        checks.check_generation(request, self.limits, self.manifest.vocabulary_size)
        ids = self._encode(request.input)
        sampling = _resolve(request.sampling)
        async with self._seats.take(caller) as seat:
            text = self._text_after(seat.start, ids, request.stop)
            goal = _generation_goal(request, sampling, text)
            generated: list[int] = []
            turn = Turn(seat.start, ids, goal, keeps_state=seat.is_kept)
            async with aclosing(self._engine.follow(turn)) as batches:
                async for events, ended in batches:
                    tokens = tuple(event for event in events if isinstance(event, Generated))
                    pace.note(len(tokens))
                    generated.extend(token.id for token in tokens)
                    if ended is None:
                        yield GenerationPiece(tokens, text.take())
                        continue
                    seat.save(ended.snapshot, (*ids, *generated))
                    position = seat.start.position + len(ids) + len(generated)
                    end = requests.GenerationEnd(
                        ended.reason, text.stop, position, len(ids), len(generated), sampling.seed
                    )
                    yield GenerationPiece(tokens, text.finish(), end)

    async def predict(self, caller: Caller, request: PredictionRequest) -> Prediction:
        """Feed the input to the session and name what is likely to follow."""
        checks.check_prediction(request)
        ids = self._encode(request.input)
        async with self._seats.take(caller) as seat:
            prediction, snapshot = await self._predict_from(seat.start, ids, request)
            seat.save(snapshot, ids)
            return prediction

    async def predict_unkept(self, start: Snapshot | None, request: PredictionRequest) -> tuple[Prediction, Snapshot]:
        """The same on a sequence that the caller carries; None is a fresh one."""
        checks.check_prediction(request)
        ids = self._encode(request.input)
        return await self._predict_from(start or self._engine.start_snapshot, ids, request)

    async def score(self, caller: Caller, request: ScoringRequest) -> AsyncGenerator[ScoringPiece]:
        """Rate the input; pieces as they come, the last one with the totals."""
        checks.check_scoring(request, self.manifest.vocabulary_size)
        ids = self._encode(request.input)
        async with self._seats.take(caller) as seat:
            decoder = TextDecoder(seat.start.tail)
            total, num_hits = 0.0, 0
            async with aclosing(self._engine.follow(Turn(seat.start, ids, Score()))) as batches:
                async for events, ended in batches:
                    tokens = self._rate(events, request.num_top, decoder)
                    total += sum(token.log_probability for token in tokens)
                    num_hits += sum(token.is_hit for token in tokens)
                    if ended is None:
                        yield ScoringPiece(tokens)
                        continue
                    seat.save(ended.snapshot, ids)
                    yield ScoringPiece(tokens, ScoreTotals(len(ids), total, num_hits, ended.snapshot.position))

    async def _predict_from(
        self, start: Snapshot, ids: tuple[int, ...], request: PredictionRequest
    ) -> tuple[Prediction, Snapshot]:
        candidates: tuple[Candidate, ...] = ()
        snapshot = start
        async with aclosing(self._engine.follow(Turn(start, ids, Predict(request.num_candidates)))) as batches:
            async for events, ended in batches:
                candidates = next((event.candidates for event in events if isinstance(event, Predicted)), candidates)
                snapshot = ended.snapshot if ended is not None else snapshot
        words: tuple[requests.Word, ...] = ()
        if request.word_prefix is not None:
            words = await self._words.find(snapshot, request.word_prefix, request.num_words)
        return Prediction(candidates, words, snapshot.position), snapshot

    def _encode(self, given: requests.Input) -> tuple[int, ...]:
        ids = tuple(self.tokenizer.encode(given) if isinstance(given, str) else given)
        checks.check_input(ids, self.limits, self.manifest.vocabulary_size)
        return ids

    def _text_after(self, start: Snapshot, ids: tuple[int, ...], stops: tuple[str, ...]) -> TextStream:
        return TextStream(self.tokenizer, pending_bytes(self.tokenizer, start.tail, ids), stops)

    def _rate(self, events: Sequence[Event], num_top: int, decoder: TextDecoder) -> tuple[ScoredToken, ...]:
        return tuple(
            ScoredToken(index, log_prob, rank, rank <= num_top, decoder.push(self.tokenizer.token_bytes(index)))
            for event in events
            if isinstance(event, Scored)
            for index, log_prob, rank in zip(event.ids, event.log_probabilities, event.ranks, strict=True)
        )


class _Pace:
    """Measures a generation: from its making to the first token, then from token to token."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._is_first = True
        self._since = time.perf_counter()

    def note(self, num_tokens: int) -> None:
        for _ in range(num_tokens):
            now = time.perf_counter()
            self._metrics.token_generated(now - self._since, is_first=self._is_first)
            self._since, self._is_first = now, False


def _resolve(options: requests.SamplingOptions) -> Sampling:
    seed = secrets.randbits(63) if options.seed is None else options.seed
    return Sampling(
        seed=seed,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        logit_bias=dict(options.logit_bias),
    )


def _generation_goal(request: GenerationRequest, sampling: Sampling, text: TextStream) -> Generate:
    stop_ids = frozenset(request.stop_ids)
    return Generate(sampling, request.max_tokens, stop_ids, request.num_log_probabilities, text.push)

"""The use case: one turn of one session. Every transport calls this module and nothing below it.

A turn takes its session (one turn at a time), runs it on the engine, and saves the new snapshot once, before its last
piece goes out. Any failure before that leaves the session unchanged.
"""

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from itertools import repeat

from carousel.bundle.chat import Message as ChatMessage
from carousel.bundle.manifest import Manifest
from carousel.bundle.tokenizer import TextDecoder, Tokenizer
from carousel.engine.engine import Engine
from carousel.errors import ChatTemplateMissing, ModelNotFound
from carousel.metrics import Metrics
from carousel.sessions import checks, requests
from carousel.sessions.answers import GenerationAnswer, ScoringAnswer, ScoringRecord
from carousel.sessions.branch import Branch, merge
from carousel.sessions.carried import CarriedSequences
from carousel.sessions.conversation import Conversation
from carousel.sessions.encoding import Encoder
from carousel.sessions.gate import Gate
from carousel.sessions.many import Many, ManyBounds
from carousel.sessions.messages import Format, Message
from carousel.sessions.requests import (
    Caller,
    GenerationPiece,
    GenerationRequest,
    Prediction,
    PredictionRequest,
    ScoredToken,
    ScoringPiece,
    ScoringRequest,
    Standing,
)
from carousel.sessions.residents import Residents
from carousel.sessions.sequence_source import Outcome, SequenceSource, TurnSequence, check_caller
from carousel.sessions.words import WordSearch
from carousel.shares import Shares
from carousel.traces import Timeline
from carousel.turns import (
    Candidate,
    Ended,
    Event,
    Generated,
    Predict,
    Predicted,
    Sampling,
    Score,
    Scored,
    Snapshot,
    Turn,
)

NO_TEMPLATE = "the model's bundle has no chat template, so it takes text alone, as /v1/completions does"


class Sessions:
    """Turns on the sequences of one model, for callers that a transport has identified."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        engine: Engine,
        sequences: SequenceSource,
        residents: Residents,
        carried: CarriedSequences,
        limits: checks.Limits,
        many_bounds: ManyBounds,
        metrics: Metrics,
        encoder: Encoder,
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.limits = limits
        self._digest = manifest.digest
        self._engine = engine
        self._sequences = sequences
        self._residents = residents
        self._carried = carried
        self._many_bounds = many_bounds
        self._gate = Gate()  # for the streams of many sequences
        self._open_sequences = Shares()  # on all these streams
        self._metrics = metrics
        self._words = WordSearch(tokenizer, engine.submit)
        self._encoder = encoder

    def close(self) -> None:
        """Closes the thread for long texts."""
        self._encoder.close()

    async def tokenize(self, owner: str, text: str) -> tuple[int, ...]:
        """Returns the text's ids. Raises InvalidRequest for more text or tokens than a request may have."""
        self._engine.check_open(owner)
        return await self._encoder.encode(text, owner)

    async def detokenize(self, owner: str, ids: Sequence[int]) -> str:
        """Returns the ids' text. Raises InvalidRequest for ids that are not in the vocabulary."""
        self._engine.check_open(owner)
        return await self._encoder.decode(ids, owner)

    async def render_chat(self, owner: str, messages: Sequence[ChatMessage]) -> str:
        """Returns the conversation as text, up to where the assistant's next turn begins. Raises ChatTemplateMissing
        where the bundle has no template, and InvalidRequest for messages that it does not take."""
        self._engine.check_open(owner)
        if self.manifest.chat is None:
            raise ChatTemplateMissing("messages", NO_TEMPLATE)
        return await self._encoder.render(self.manifest.chat, messages, owner)

    def check_model(self, model: str) -> None:
        """Raises ModelNotFound unless `model` is empty, the model's name or its digest."""
        if model not in ("", self.manifest.name, self._digest):
            raise ModelNotFound(f"there is no model {model}; this server holds {self.manifest.name}")

    def converse(self, owner: str) -> Conversation:
        """Returns a new sequence. The caller must close it."""
        return Conversation(self, self._residents, self._carried, owner, self.manifest.vocabulary_size)

    @contextlib.asynccontextmanager
    async def conversing(self, owner: str) -> AsyncIterator[Conversation]:
        """Opens a Predict stream's sequence, and closes it at the end."""
        talk = self.converse(owner)
        try:
            yield talk
        finally:
            await talk.close()

    def converse_many(
        self,
        owner: str,
        format: Format,
        rest: Callable[[bool], None],
        note: Callable[[Message, Exception], None],
    ) -> Many:
        """Returns a stream of many sequences; `Many` explains the parameters. The caller must close it."""
        converse = partial(self.converse, owner)
        return Many(format, converse, self._many_bounds, owner, self._gate, self._open_sequences, rest, note)

    async def generate(self, caller: Caller, request: GenerationRequest) -> AsyncGenerator[GenerationPiece]:
        """Yields pieces as they come. Each branch's last piece has its end. The session continues from branch 0."""
        pace = _Pace(self._metrics, caller.timeline)
        checks.check_generation(request, self.limits, self.manifest.vocabulary_size)
        with self._engine.accepted(caller.owner):
            ids = await self._encode(caller, request.input)
            async with self._sequences.hold(caller, request) as sequence:
                if sequence.replay is not None:
                    for piece in _replay_generation(sequence):
                        yield piece
                    return
                async with aclosing(self._run_branches(sequence, ids, request, caller)) as pieces:
                    async for piece in pieces:
                        pace.note(len(piece.tokens))
                        sequence.is_told = True
                        yield piece

    async def predict(self, caller: Caller, request: PredictionRequest) -> Prediction:
        """Feeds the input and returns what is likely to follow."""
        checks.check_prediction(request)
        self._engine.take_message(caller.owner)
        with self._engine.accepted(caller.owner):
            ids = await self._encode(caller, request.input)
            async with self._sequences.hold(caller, request) as sequence:
                if isinstance(sequence.replay, Prediction):
                    return replace(sequence.replay, standing=sequence.standing)
                candidates, words, snapshot = await self._predict_from(sequence.start, ids, request, caller.owner)
                unsaved = Prediction(candidates, words, Standing(snapshot.position, 0))
                return Prediction(candidates, words, await sequence.save(Outcome(snapshot, ids, unsaved)))

    async def predict_unkept(
        self, start: Snapshot | None, request: PredictionRequest, caller: Caller
    ) -> tuple[Prediction, Snapshot]:
        """Predicts on a sequence that a stream carries, or on a fresh one if `start` is None."""
        checks.check_prediction(request)
        self._engine.take_message(caller.owner)
        with self._engine.accepted(caller.owner):
            ids = await self._encode(caller, request.input)
            async with self._sequences.hold(caller, request) as sequence:
                candidates, words, snapshot = await self._predict_from(
                    start or sequence.start, ids, request, caller.owner
                )
                return Prediction(candidates, words, Standing(snapshot.position, 0)), snapshot

    async def score(self, caller: Caller, request: ScoringRequest) -> AsyncGenerator[ScoringPiece]:
        """Scores the input. Yields pieces as they come; the last one has the totals."""
        checks.check_scoring(request, self.manifest.vocabulary_size)
        with self._engine.accepted(caller.owner):
            ids = await self._encode(caller, request.input)
            checks.check_scored_items(len(ids), request, self.limits)
            async with self._sequences.hold(caller, request) as sequence:
                if isinstance(sequence.replay, ScoringAnswer):
                    yield ScoringPiece(
                        sequence.replay.tokens, replace(sequence.replay.totals, standing=sequence.standing)
                    )
                    return
                async with aclosing(self._run_scoring(sequence, ids, request, caller)) as pieces:
                    async for piece in pieces:
                        sequence.is_told = True
                        yield piece

    async def _encode(self, caller: Caller, given: requests.Input) -> tuple[int, ...]:
        check_caller(caller)
        return await self._encoder.encode(given, caller.owner)

    async def _run_scoring(
        self, sequence: TurnSequence, ids: tuple[int, ...], request: ScoringRequest, caller: Caller
    ) -> AsyncGenerator[ScoringPiece]:
        decoder = TextDecoder(sequence.start.tail)
        record = ScoringRecord(sequence.max_answer_bytes)
        turn = Turn(sequence.start, ids, Score(request.num_candidates), owner=caller.owner, timeline=caller.timeline)
        async with aclosing(self._engine.follow(turn)) as batches:
            async for events, ended in batches:
                tokens = self._rate(events, request.num_top, decoder)
                record.add(tokens)
                if ended is None:
                    yield ScoringPiece(tokens)
                    continue
                totals = record.total(ended.snapshot.position)
                standing = await sequence.save(Outcome(ended.snapshot, ids, record.answer(totals)))
                yield ScoringPiece(tokens, replace(totals, standing=standing))

    async def _run_branches(
        self, sequence: TurnSequence, ids: tuple[int, ...], request: GenerationRequest, caller: Caller
    ) -> AsyncGenerator[GenerationPiece]:
        """Yields the pieces of all branches. The end of branch 0 comes last, after the session is saved."""
        branches = await self._make_branches(sequence, ids, request, caller)
        answers: dict[int, GenerationAnswer | None] = {}
        last: tuple[GenerationPiece, Ended] | None = None
        runs = [self._run_branch(branch) for branch in branches]
        async with aclosing(runs[0] if len(runs) == 1 else merge(runs)) as pieces:
            async for piece, ended in pieces:
                if piece.end is not None:
                    answers[piece.branch] = branches[piece.branch].answer(piece.end)
                if ended is not None and piece.branch == 0:
                    last = piece, ended
                else:
                    yield piece
        assert last is not None
        piece, ended = last
        assert piece.end is not None
        record = tuple(answer for _, answer in sorted(answers.items()) if answer is not None)
        kept = record if len(record) == len(answers) else None
        standing = await sequence.save(Outcome(ended.snapshot, branches[0].consumed(), kept))
        yield replace(piece, end=replace(piece.end, standing=standing))

    async def _make_branches(
        self, sequence: TurnSequence, ids: tuple[int, ...], request: GenerationRequest, caller: Caller
    ) -> list[Branch]:
        """Makes the branches. A single one feeds the input itself. Several fork after it, each with the next seed."""
        options = request.sampling
        sampling = Sampling.of(options, secrets.randbits(63) if options.seed is None else options.seed)
        fed = await self._feed(sequence.start, ids, caller) if request.num_branches > 1 else None
        return [
            Branch(
                self.tokenizer,
                request,
                sequence.start,
                ids,
                replace(sampling, seed=(sampling.seed + number) % 2**64),
                number=number,
                fed=fed,
                keeps_state=sequence.is_kept and number == 0,
                owner=caller.owner,
                timeline=caller.timeline,
                max_answer_bytes=sequence.max_answer_bytes or None,
            )
            for number in range(request.num_branches)
        ]

    async def _run_branch(self, branch: Branch) -> AsyncGenerator[tuple[GenerationPiece, Ended | None]]:
        async with aclosing(self._engine.follow(branch.turn())) as batches:
            async for events, ended in batches:
                tokens = tuple([event for event in events if type(event) is Generated])
                yield branch.piece(tokens, ended), ended

    async def _feed(self, start: Snapshot, ids: tuple[int, ...], caller: Caller) -> Snapshot:
        """Returns the snapshot after the input."""
        turn = Turn(start, ids, Predict(0), owner=caller.owner, timeline=caller.timeline)
        _, ended = await self._engine.finish(turn)
        return ended.snapshot

    async def _predict_from(
        self, start: Snapshot, ids: tuple[int, ...], request: PredictionRequest, owner: str
    ) -> tuple[tuple[Candidate, ...], tuple[requests.Word, ...], Snapshot]:
        turn = Turn(start, ids, Predict(request.num_candidates), owner=owner)
        events, ended = await self._engine.finish(turn)
        candidates = next((event.candidates for event in events if isinstance(event, Predicted)), ())
        words: tuple[requests.Word, ...] = ()
        if request.word_prefix is not None:
            words = await self._words.find(ended.snapshot, request.word_prefix, request.num_words, owner)
        return candidates, words, ended.snapshot

    def _rate(self, events: Sequence[Event], num_top: int, decoder: TextDecoder) -> tuple[ScoredToken, ...]:
        return tuple(
            ScoredToken(index, log_prob, rank, rank <= num_top, decoder.push(self.tokenizer.token_bytes(index)), likely)
            for event in events
            if isinstance(event, Scored)
            for index, log_prob, rank, likely in zip(
                event.ids, event.log_probabilities, event.ranks, event.candidates or repeat(()), strict=False
            )
        )


class _Pace:
    """Measures a generation: from its start to the first tokens, then from piece to piece."""

    def __init__(self, metrics: Metrics, timeline: Timeline) -> None:
        self._metrics = metrics
        self._exemplar = timeline.exemplar
        self._is_first = True
        self._since = time.perf_counter()

    def note(self, num_tokens: int) -> None:
        if num_tokens == 0:
            return
        now = time.perf_counter()
        seconds, is_first = now - self._since, self._is_first
        self._metrics.tokens_generated(num_tokens, seconds, is_first=is_first, exemplar=self._exemplar)
        self._since, self._is_first = now, False


def _replay_generation(sequence: TurnSequence) -> Iterator[GenerationPiece]:
    """Yields the recorded answer, one piece per branch, branch 0 last as in the first answer."""
    assert isinstance(sequence.replay, tuple)
    for number, answer in reversed(list(enumerate(sequence.replay))):
        standing = sequence.standing if number == 0 else replace(answer.end.standing, is_replay=True)
        yield GenerationPiece(answer.tokens, answer.text, replace(answer.end, standing=standing), number)

"""Small honest stand-ins that several test modules share."""

import asyncio
import collections
import enum
import threading
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from carousel.bundle.layout import Array, Rows, StateBatch, StateLayout, StateTensor
from carousel.bundle.tokenizer import Tokenizer, TokenizerKind
from carousel.engine import sampler
from carousel.engine.model import Candidates, Likeliest, TargetScores
from carousel.errors import CarouselError, StoreUnavailable
from carousel.state.store import Birth, Change, Deed, Ending, EndReason, Held, Row, SessionStore
from carousel.turns import Sampling, Snapshot


class ToyModel:
    """A real recurrent net of four units over bytes-like ids, computed row by row so that rows cannot mix.

    Any mistake in carrying state, order or position changes its answers.
    """

    def __init__(self, vocabulary_size: int = 16, hidden_size: int = 4, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.layout = StateLayout((StateTensor("h", (hidden_size,), "float32"), StateTensor("count", (), "int64")))
        self.vocabulary_size = vocabulary_size
        self.hidden_size = hidden_size
        self._input_VH = random.normal(size=(vocabulary_size, hidden_size)).astype(np.float32)
        self._recurrent_HH = random.normal(size=(hidden_size, hidden_size)).astype(np.float32)
        self._output_HV = 2 * random.normal(size=(hidden_size, vocabulary_size)).astype(np.float32)
        self.steps: list[tuple[int, int]] = []  # (rows, longest row) of every call of core
        self.poison_id: int | None = None  # a row that consumes it turns into NaN

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        self.steps.append(ids_BT.shape)
        hidden_BTH = np.zeros((*ids_BT.shape, self.hidden_size), np.float32)
        h_BH, count_B = np.array(state[0]), np.array(state[1])
        for row, length in enumerate(lengths_B):
            for column in range(length):
                token = int(ids_BT[row, column])
                h_BH[row] = np.tanh(self._input_VH[token] + self._recurrent_HH @ h_BH[row])
                if token == self.poison_id:
                    h_BH[row] = np.nan
                hidden_BTH[row, column] = h_BH[row]
                count_B[row] += 1
        return hidden_BTH, (h_BH, count_B)

    def logits(self, hidden_NH: Rows) -> Array:
        return np.stack([hidden_H @ self._output_HV for hidden_H in np.asarray(hidden_NH)])

    def likeliest(self, hidden_NH: Rows) -> Likeliest:
        logits_NV = self.logits(hidden_NH)
        return Likeliest(np.argmax(logits_NV, axis=1), logits_NV.max(axis=1))

    def probabilities(self, hidden_NH: Rows, temperatures_N: Array) -> Array:
        weights_NV = sampler.weigh(self.logits(hidden_NH), list(temperatures_N))
        chances_NV: Array = weights_NV / weights_NV.sum(axis=1, keepdims=True)
        return chances_NV

    def candidates(self, hidden_NH: Rows, num_candidates: int) -> Candidates:
        logits_NV = self.logits(hidden_NH)
        ids_NK = np.argsort(-logits_NV, axis=1, kind="stable")[:, :num_candidates]
        return Candidates(ids_NK, np.take_along_axis(logits_NV, ids_NK, axis=1), _log_sum_exp(logits_NV))

    def score(self, hidden_NH: Rows, targets_N: Array) -> TargetScores:
        logits_NV = self.logits(hidden_NH)
        target_N1 = np.take_along_axis(logits_NV, targets_N[:, None], axis=1)
        ranks_N = (logits_NV > target_N1).sum(axis=1) + 1
        return TargetScores(target_N1[:, 0] - _log_sum_exp(logits_NV), ranks_N)


class GatedModel(ToyModel):
    """Its steps can be held: `entered` tells that one stands before the closed `gate`; it goes on when that opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.gate.set()

    def core(self, ids_BT: Array, lengths_B: Array, state: StateBatch) -> tuple[Array, StateBatch]:
        if not self.gate.is_set():
            self.entered.set()
        assert self.gate.wait(20)
        return super().core(ids_BT, lengths_B, state)

    def close(self) -> None:
        """Hold the next step that begins."""
        self.entered.clear()
        self.gate.clear()

    async def until_held(self) -> None:
        """Returns when a step stands before the gate."""
        assert await asyncio.to_thread(self.entered.wait, 20)


class SlowOracle:
    """The same model one token at a time, without engine, lanes or batches: what every turn must agree with."""

    def __init__(self, model: ToyModel, start_id: int = 0) -> None:
        self._model = model
        self._start_id = start_id

    def start(self) -> Snapshot:
        ids_BT, lengths_B = np.array([[self._start_id]]), np.ones(1, int)
        hidden_BTH, state = self._model.core(ids_BT, lengths_B, self._model.layout.initial(1))
        return Snapshot(0, tuple(array[0] for array in state), hidden_BTH[0, 0])

    def feed(self, snapshot: Snapshot, ids: Sequence[int]) -> Snapshot:
        for token in ids:
            batch = tuple(np.asarray(array)[None] for array in snapshot.state)
            hidden_BTH, state = self._model.core(np.array([[token]]), np.ones(1, int), batch)
            recent_ids = (*snapshot.recent_ids, token)[-64:]
            snapshot = Snapshot(snapshot.position + 1, tuple(a[0] for a in state), hidden_BTH[0, 0], recent_ids)
        return snapshot

    def logits(self, snapshot: Snapshot) -> Array:
        logits_V: Array = self._model.logits(snapshot.hidden_H[None])[0]
        return logits_V

    def sample(
        self, snapshot: Snapshot, ids: Sequence[int], num_tokens: int, sampling: Sampling
    ) -> tuple[list[int], Snapshot]:
        snapshot = self.feed(snapshot, ids)
        generated = []
        for _ in range(num_tokens):
            logits_V = self.logits(snapshot)
            generated.append(sampler.choose(logits_V, sampling, snapshot.recent_ids, snapshot.position))
            snapshot = self.feed(snapshot, generated[-1:])
        return generated, snapshot

    def greedy(self, snapshot: Snapshot, ids: Sequence[int], num_tokens: int) -> tuple[list[int], Snapshot]:
        snapshot = self.feed(snapshot, ids)
        generated = []
        for _ in range(num_tokens):
            generated.append(int(np.argmax(self.logits(snapshot))))
            snapshot = self.feed(snapshot, generated[-1:])
        return generated, snapshot


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Fault(enum.Enum):
    """Where a call of a store fails."""

    READ = "read"
    ACQUIRE = "acquire"
    BEFORE_WRITE = "before the write"
    AFTER_WRITE = "after the write"  # it was done, but the answer is lost
    COUNT = "count"


class FaultyStore:
    """A store whose next calls fail as `faults` says, and that waits where `pause` waits. `log` has what turns do."""

    def __init__(self, inner: SessionStore, pause: Callable[[str], Awaitable[None]] | None = None) -> None:
        self.inner = inner
        self.durability = inner.durability
        self.is_immediate = False
        self.is_shared = inner.is_shared
        self.faults: collections.Counter[Fault] = collections.Counter()
        self.pause = pause
        self.log: list[str] = []

    async def start(self, told: Callable[[Ending], None]) -> None:
        await self.inner.start(told)

    async def close(self) -> None:
        await self.inner.close()

    async def create(self, births: Sequence[Birth], deed: Deed | None = None) -> list[Row]:
        await self._wait("create")
        self._fail(Fault.BEFORE_WRITE)
        rows = await self.inner.create(births, deed)
        await self._wait("created")
        self._fail(Fault.AFTER_WRITE)
        return rows

    async def num_bytes(self) -> int | None:
        return await self.inner.num_bytes()

    async def recall(self, owner: str, request_id: str) -> Deed | None:
        self._fail(Fault.READ)
        return await self.inner.recall(owner, request_id)

    async def read(self, owner: str, session_id: str) -> Row | Ending | None:
        self._fail(Fault.READ)
        return await self.inner.read(owner, session_id)

    async def acquire(self, owner: str, session_id: str, room: int = 0) -> Held | Ending | None:
        self._fail(Fault.ACQUIRE)
        await self._step("acquire")
        return await self.inner.acquire(owner, session_id, room)

    async def commit(self, held: Held, change: Change) -> Row:
        try:
            await self._step("commit")
            self._fail(Fault.BEFORE_WRITE)
            row = await self.inner.commit(held, change)
            await self._step("committed")
            self._fail(Fault.AFTER_WRITE)
            return row
        except BaseException as error:
            self.log.append(type(error).__name__)
            raise

    async def commit_all(self, changes: Sequence[tuple[Held, Change]]) -> list[Row | CarouselError]:
        outcomes = list[Row | CarouselError]()
        for held, change in changes:
            try:
                outcomes.append(await self.commit(held, change))
            except CarouselError as error:
                outcomes.append(error)
        return outcomes

    async def release(self, held: Held) -> None:
        await self.inner.release(held)
        await self._step("release")

    async def end(self, row: Row, reason: EndReason, deed: Deed | None = None) -> bool:
        self._fail(Fault.BEFORE_WRITE)
        return await self.inner.end(row, reason, deed)

    async def list_owned(self, owner: str, after: tuple[float, str], count: int) -> list[Row]:
        self._fail(Fault.READ)
        return await self.inner.list_owned(owner, after, count)

    async def sweep(self, count: int) -> int:
        return await self.inner.sweep(count)

    async def num_live(self) -> int:
        self._fail(Fault.COUNT)
        return await self.inner.num_live()

    def durable_position(self, row: Row) -> int:
        return self.inner.durable_position(row)

    async def _step(self, name: str) -> None:
        self.log.append(name)
        await self._wait(name)

    async def _wait(self, name: str) -> None:
        if self.pause is not None:
            await self.pause(name)

    def _fail(self, fault: Fault) -> None:
        if self.faults[fault]:
            self.faults[fault] -= 1
            raise StoreUnavailable(f"the store failed: {fault.value}")


def same_snapshot(one: Snapshot, other: Snapshot) -> bool:
    """Equal bit for bit."""
    arrays = zip((*one.state, one.hidden_H), (*other.state, other.hidden_H), strict=True)
    return (
        one.position == other.position
        and one.recent_ids == other.recent_ids
        and all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in arrays)
    )


def character_tokenizer(characters: str) -> Tokenizer:
    """Ids in the order of `characters`."""
    vocabulary = {"<unk>": 0} | {character: index for index, character in enumerate(characters, 1)}
    codec = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    codec.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"(?m:.)"), "isolated")
    return Tokenizer(TokenizerKind.CHARACTER, codec)


def byte_tokenizer() -> Tokenizer:
    """Ids 0..255 are the bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    shifted = iter(letter for letter in alphabet if ord(letter) > 255)
    vocabulary = {chr(byte) if chr(byte) in alphabet else next(shifted): byte for byte in range(256)}
    codec = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    codec.decoder = decoders.ByteLevel()
    return Tokenizer(TokenizerKind.BYTE, codec)


def _log_sum_exp(logits_NV: Array) -> Array:
    highest_N1 = logits_NV.max(axis=1, keepdims=True)
    return np.asarray(highest_N1[:, 0] + np.log(np.exp(logits_NV - highest_N1).sum(axis=1)))

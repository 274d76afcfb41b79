"""Reads a text on a copy of a sequence, and shows the model's state after each token. The session stays as it is.

Each token is a turn of its own on the engine, from the snapshot of the turn before. Between two tokens the call holds
no lane and no session, so a reader that is slow or leaves holds nothing up.
"""

import time
from collections.abc import AsyncGenerator, Sequence

from carousel.bundle.layout import StateLayout, StateTensor
from carousel.bundle.tokenizer import TextDecoder, Tokenizer
from carousel.engine.engine import Engine
from carousel.errors import InvalidRequest, PermissionDenied
from carousel.records import record
from carousel.sessions import checks
from carousel.sessions.access import SessionAccess
from carousel.sessions.encoding import Encoder
from carousel.sessions.ledger import Ledger
from carousel.sessions.operations import Point
from carousel.sessions.requests import Caller, Input
from carousel.state.codec import SnapshotCodec
from carousel.traces import Timeline
from carousel.turns import Array, Candidate, Score, Scored, Snapshot, Turn

MAX_TOKENS = 1024  # of one call
MAX_VALUE_BYTES = 2**20  # of one moment's values: gRPC's clients take messages of 4 MiB


@record(frozen=True, slots=True)
class InspectionRequest:
    """What to read, from where, and which of the state's tensors to show: by name, all without any."""

    input: Input = ()
    point: Point = Point()
    tensors: tuple[str, ...] = ()
    num_candidates: int = 0  # the likeliest tokens in each token's place


@record(frozen=True, slots=True)
class InspectedToken:
    """A token that was read. The text of the last one has what is left of an incomplete character as U+FFFD."""

    id: int
    text: str
    log_probability: float  # nats, given everything before
    rank: int  # 1 is the likeliest
    candidates: tuple[Candidate, ...] = ()


@record(frozen=True, slots=True)
class Inspected:
    """The state at one moment: first where the reading starts, then after each token. `values` has an array per shown
    tensor, of the tensor's shape and type; no receiver may write into it. Values may be infinite or no numbers."""

    position: int  # tokens consumed
    values: tuple[Array, ...]
    token: InspectedToken | None = None  # the last of these tokens, if this call has read it
    tensors: tuple[StateTensor, ...] = ()  # what `values` holds; told once, in the first


class Inspection:
    """Shows states, if the server's setting `inspect` allows it."""

    def __init__(
        self,
        layout: StateLayout,
        tokenizer: Tokenizer,
        encoder: Encoder,
        engine: Engine,
        access: SessionAccess,
        ledger: Ledger,
        codec: SnapshotCodec,
        *,
        is_allowed: bool,
    ) -> None:
        self.layout = layout
        self.is_allowed = is_allowed
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._engine = engine
        self._access = access
        self._ledger = ledger
        self._codec = codec

    async def inspect(self, caller: Caller, request: InspectionRequest) -> AsyncGenerator[Inspected]:
        """Yields the state where the reading starts, then after each token. `caller` names the session, or none for
        the model's start. Raises PermissionDenied where the setting is off, InvalidRequest, PositionUnknown, the errors
        of a session that is not there, and between tokens what any turn raises: Overloaded, ModelFailed, ShuttingDown.
        Close the generator to give up."""
        places = self._check(caller, request)
        with self._engine.accepted(caller.owner):
            ids = await self._encoder.encode(request.input, caller.owner)
            if len(ids) > MAX_TOKENS:
                raise InvalidRequest("input", f"{len(ids)} tokens; at most {MAX_TOKENS} in one inspection")
            snapshot = await self._start(caller, request.point)
            yield Inspected(snapshot.position, _pick(snapshot, places), tensors=self._describe(places))
            decoder, began = TextDecoder(snapshot.tail), time.perf_counter()
            for number, one in enumerate(ids, 1):
                scored, snapshot = await self._read(snapshot, one, request.num_candidates, caller.owner)
                text = decoder.push(self._tokenizer.token_bytes(one))
                if number == len(ids):
                    _note(caller.timeline, began)
                    text += decoder.flush()
                yield Inspected(snapshot.position, _pick(snapshot, places), _tell(scored, text))

    def _check(self, caller: Caller, request: InspectionRequest) -> tuple[int, ...]:
        """Returns the places of the tensors to show, in the order of the request."""
        if not self.is_allowed:
            text = "this server does not show states; its setting inspect=true allows it"
            raise PermissionDenied(text, setting="inspect")
        if not caller.session_id and request.point != Point():
            raise InvalidRequest("point", "needs a session")
        checks.check_num_candidates(request.num_candidates)
        places = self._find(request.tensors)
        num_bytes = sum(tensor.num_bytes for tensor in self._describe(places))
        if num_bytes > MAX_VALUE_BYTES:
            text = f"{num_bytes} bytes of values after each token; at most {MAX_VALUE_BYTES}: name fewer tensors"
            raise InvalidRequest("tensors", text)
        return places

    def _find(self, names: Sequence[str]) -> tuple[int, ...]:
        places = {tensor.name: place for place, tensor in enumerate(self.layout.tensors)}
        if not names:
            return tuple(places.values())
        if len(set(names)) < len(names):
            raise InvalidRequest("tensors", "has a name twice")
        for name in names:
            if name not in places:
                raise InvalidRequest("tensors", f"there is no {name[:100]!r}; these are: {', '.join(places)}")
        return tuple(places[name] for name in names)

    def _describe(self, places: Sequence[int]) -> tuple[StateTensor, ...]:
        return tuple(self.layout.tensors[place] for place in places)

    async def _start(self, caller: Caller, point: Point) -> Snapshot:
        """Returns the snapshot at the point. The session is free again at once."""
        if not caller.session_id:
            return self._engine.start_snapshot
        with caller.timeline.measure("hold"):
            async with self._access.hold(caller.owner, caller.session_id) as held:
                blob = self._ledger.find(held, point.position, point.mark)
        return self._codec.decode(blob)

    async def _read(self, start: Snapshot, one: int, num_candidates: int, owner: str) -> tuple[Scored, Snapshot]:
        turn = Turn(start, (one,), Score(num_candidates), owner=owner)
        events, ended = await self._engine.finish(turn)
        (scored,) = events
        assert isinstance(scored, Scored)
        return scored, ended.snapshot


def _note(timeline: Timeline, began: float) -> None:
    """Notes the tokens as one part: a trace has none of a single token."""
    timeline.note("prompt", began, time.perf_counter())


def _pick(snapshot: Snapshot, places: Sequence[int]) -> tuple[Array, ...]:
    return tuple(snapshot.state[place] for place in places)


def _tell(scored: Scored, text: str) -> InspectedToken:
    candidates = scored.candidates[0] if scored.candidates else ()
    return InspectedToken(scored.ids[0], text, scored.log_probabilities[0], scored.ranks[0], candidates)

"""One Predict stream: what it carries between messages, and the shortest path for each message.

A stream that continues a session holds it as a resident, which answers the plain messages. All other messages (words,
several tokens, retries, a session that another caller has used) take the ordinary path, which takes the session first.
A stream without a session holds its sequence in the same way.
"""

from dataclasses import replace
from typing import Protocol

from carousel.errors import CarouselError, InvalidRequest, SessionEvicted, SessionNotFound
from carousel.sessions import checks
from carousel.sessions.carried import CarriedSequences
from carousel.sessions.deeds import is_request_id
from carousel.sessions.endurance import finish
from carousel.sessions.messages import Message, Reader
from carousel.sessions.order import Key
from carousel.sessions.requests import Caller, Prediction, PredictionRequest
from carousel.sessions.resident import Named, Plain, Resident, Sink
from carousel.sessions.residents import Residents
from carousel.turns import Snapshot

# In the gate's unit: the cost of a search for words, without its turn.
_SEARCH_COST, _WORD_COST = 20.0, 2.0
_TOKENS_PER_COST = 800  # tokens of the vocabulary: a search sorts those that fit


class Predictor(Protocol):
    """The ordinary path."""

    def check_model(self, model: str) -> None: ...

    async def predict(self, caller: Caller, request: PredictionRequest) -> Prediction: ...

    async def predict_unkept(
        self, start: Snapshot | None, request: PredictionRequest, caller: Caller
    ) -> tuple[Prediction, Snapshot]: ...


class Conversation:
    """One owner's stream. Its first message names the session, if any. The caller must close it."""

    def __init__(
        self, predictor: Predictor, residents: Residents, carried: CarriedSequences, owner: str, vocabulary_size: int
    ) -> None:
        self._predictor = predictor
        self._residents = residents  # of sessions, or of carried sequences
        self._carrying = carried
        self._room = carried.room  # for all that streams carry
        self._owner = owner
        self._vocabulary_size = vocabulary_size
        self._is_begun = False
        self._has_lost_session = False  # the named session was refused: no other sequence is meant
        self._session_id = ""
        self._sealed = b""  # the last state, if the client brought one
        self._carried: Snapshot | None = None  # the sequence of a stream that names no session and brings no state
        self._kept: Key | None = None  # the key of the sequence if CarriedSequences keeps it instead
        self._goes_on = False  # a session after its first turn, or a carried sequence, can continue
        self._is_in_room = False  # has its place in CarriedRoom
        self._is_given_up = False  # lost its carried sequence to make room
        self._is_asked = False  # has a message without an answer yet
        self._resident: Resident | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a message is being answered."""
        return self._is_asked or (self._resident is not None and self._resident.is_busy)

    @property
    def is_holding(self) -> bool:
        """Whether closing it takes work."""
        return self._resident is not None or self._kept is not None

    async def ask(self, message: Message, reader: Reader) -> Named | Prediction:
        """Answers a message on its shortest path. The first message names the model and the session. If it raises
        ModelNotFound or SessionNotFound, the next message is the first."""
        if not self._is_begun:
            self._begin(message)
        plain = reader.to_plain(message)
        if plain is not None and (named := await self.answer_plain(plain)) is not None:
            return named
        return await self.answer(*reader.to_request(message, self._owner))

    def search_cost(self, num_words: int) -> float:
        """Estimates the cost of a search for `num_words` words, in the gate's unit and without the turn. A search takes
        one step or dozens."""
        if not 0 < num_words <= checks.MAX_WORDS:
            return 0.0
        return _SEARCH_COST + _WORD_COST * num_words + self._vocabulary_size / _TOKENS_PER_COST

    def name(self, session_id: str) -> None:
        """Sets the session from the first message. Raises SessionNotFound for a malformed id and keeps nothing."""
        if session_id and not checks.is_name(session_id):
            raise SessionNotFound(f"there is no session {session_id}")
        self._session_id = session_id
        if not session_id:
            self._residents = self._carrying.residents
        self._is_begun = True

    def begin_plain(self, plain: Plain, sink: Sink) -> bool:
        """Begins a plain turn without waiting. Returns whether the sink has, or will get, the answer."""
        resident = self._resident
        if resident is None or resident.is_leaving or not self._goes_on or not self._is_sound(plain):
            return False
        if self._is_in_room:
            self._room.touch(self._owner, self)
        try:
            return self._residents.may_begin(resident, plain) and self._residents.begin_turn(resident, plain, sink)
        except CarouselError as error:
            sink.put(error)
            return True

    async def answer_plain(self, plain: Plain) -> Named | None:
        """Returns None if the turn did not happen: the message must take the ordinary path."""
        if not self._goes_on or not self._residents.is_enabled or not self._is_sound(plain):
            return None
        self._is_asked = True
        try:
            return await self._answer_plain(plain)
        finally:
            self._is_asked = False

    async def answer(self, request: PredictionRequest, given: Caller) -> Prediction:
        """Answers on the ordinary path. `given` is the message's caller, without the session."""
        caller = replace(given, session_id=self._session_id)
        if self._session_id:
            prediction = await self._predict_on_session(caller, request)
            self._goes_on = True
            return prediction
        self._is_asked = True
        try:
            await self._enter_room(caller)
            return await self._carry_on(caller, request)
        finally:
            self._is_asked = False
            if not self._is_carrying:
                self._leave_room()

    def _begin(self, message: Message) -> None:
        if self._has_lost_session and not message.session_id:
            raise InvalidRequest(
                "session_id", "the session that this tag named was refused: name one, or close the tag"
            )
        self._has_lost_session = bool(message.session_id)
        self._predictor.check_model(message.model)
        self.name(message.session_id)
        self._has_lost_session = False

    async def _answer_plain(self, plain: Plain) -> Named | None:
        if self._is_in_room:
            self._room.touch(self._owner, self)
        if self._resident is None or self._resident.is_leaving:
            self._resident, named = await self._residents.move_in(await self._key(), plain)
            return named
        if not self._residents.may_begin(self._resident, plain):
            return None
        return await self._residents.run_turn(self._resident, plain)

    async def _carry_on(self, caller: Caller, request: PredictionRequest) -> Prediction:
        """Answers without a session."""
        if self._sealed or caller.state:
            prediction = await self._predictor.predict(replace(caller, state=caller.state or self._sealed), request)
            kept = self._let_go()
            self._sealed, self._is_given_up = prediction.standing.state, False
            if kept is not None:
                await finish(self._carrying.drop(kept))
            return prediction
        await self._fetch()
        prediction, self._carried = await self._predictor.predict_unkept(self._carried, request, caller)
        self._goes_on = True
        return prediction

    async def _predict_on_session(self, caller: Caller, request: PredictionRequest) -> Prediction:
        resident = self._resident
        if resident is None:
            return await self._predictor.predict(caller, request)
        resident.is_excused = True
        try:
            return await self._predictor.predict(caller, request)
        finally:
            resident.is_excused = False

    async def _key(self) -> Key:
        if self._session_id:
            return self._owner, self._session_id
        if self._kept is None:
            assert self._carried is not None
            self._kept = await self._carrying.keep(self._owner, self._carried)
            self._carried = None
        return self._kept

    async def _fetch(self) -> None:
        """Fetches the carried sequence for the ordinary path."""
        if self._kept is not None:
            self._carried = await self._carrying.fetch(self._kept)
            self._kept = self._resident = None

    def _is_sound(self, plain: Plain) -> bool:
        if not self._session_id and (plain.request_id or plain.expected_position is not None):
            return False  # the ordinary path refuses it
        return (
            0 <= plain.token_id < self._vocabulary_size
            and 1 <= plain.num_candidates <= checks.MAX_CANDIDATES
            and (not plain.request_id or is_request_id(plain.request_id))
        )

    @property
    def _is_carrying(self) -> bool:
        return bool(self._sealed) or self._carried is not None or self._kept is not None

    async def _enter_room(self, caller: Caller) -> None:
        """Takes a place. Raises Overloaded, or SessionEvicted if the sequence was given up and no state is brought."""
        if self._is_given_up and not caller.state:
            raise SessionEvicted("what this stream carried was given up, for others had too little room")
        if self._is_in_room:
            return self._room.touch(self._owner, self)
        await self._carrying.make_room(self._owner)
        self._room.enter(self._owner, self)
        self._is_in_room = True

    def _leave_room(self) -> None:
        if self._is_in_room:
            self._is_in_room = False
            self._room.leave(self._owner, self)

    def give_up(self) -> Key | None:
        """Gives up the carried sequence for good. Returns the key under which it is still kept, if any."""
        self._is_in_room, self._is_given_up = False, True
        return self._let_go()

    def _let_go(self) -> Key | None:
        kept, self._kept, self._resident = self._kept, None, None
        self._sealed, self._carried, self._goes_on = b"", None, False
        return kept

    async def close(self) -> None:
        """Gives the session back and drops what is carried."""
        if self._resident is not None and not self._resident.is_leaving:
            self._resident.is_excused = True
            await self._residents.leave(self._resident.key)
        self._leave_room()
        if self._kept is not None:
            kept, self._kept = self._kept, None
            await self._carrying.drop(kept)

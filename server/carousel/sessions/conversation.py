"""One Predict stream: what it carries from message to message, and the shortest way for each message.

A stream that goes on on a session holds it, as a resident, and its plain messages stay there; everything else (words,
several tokens, repeats, whoever else has come in between) goes the ordinary way, which takes the session first. What a
stream without a session carries is held in the same way.
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

# In the gate's unit: of a search for words, beside its turn.
_SEARCH_COST, _WORD_COST = 20.0, 2.0
_TOKENS_PER_COST = 800  # of the vocabulary, of which a search sorts the tokens that fit


class Predictor(Protocol):
    """The ordinary way."""

    def check_model(self, model: str) -> None: ...

    async def predict(self, caller: Caller, request: PredictionRequest) -> Prediction: ...

    async def predict_unkept(
        self, start: Snapshot | None, request: PredictionRequest, caller: Caller
    ) -> tuple[Prediction, Snapshot]: ...


class Conversation:
    """Of one owner. The first message says on which session, if on any. To be closed."""

    def __init__(
        self, predictor: Predictor, residents: Residents, carried: CarriedSequences, owner: str, vocabulary_size: int
    ) -> None:
        self._predictor = predictor
        self._residents = residents  # of sessions, or of what streams carry
        self._carrying = carried
        self._room = carried.room  # for all that streams carry
        self._owner = owner
        self._vocabulary_size = vocabulary_size
        self._is_begun = False
        self._has_lost_session = False  # one was named that cannot be gone on with: no other sequence is meant
        self._session_id = ""
        self._sealed = b""  # the last state, when the client brought one
        self._carried: Snapshot | None = None  # the sequence of a stream that names no session and brings no state
        self._kept: Key | None = None  # under which that is kept among the carried ones instead
        self._goes_on = False  # on a session, whose first turn has been done, or on what is carried
        self._is_in_room = False  # of what streams carry
        self._is_given_up = False  # what was carried had to make room
        self._is_asked = False  # and has not answered yet
        self._resident: Resident | None = None

    @property
    def is_busy(self) -> bool:
        """A message is being answered."""
        return self._is_asked or (self._resident is not None and self._resident.is_busy)

    @property
    def is_holding(self) -> bool:
        """It has more to do at its end than to be forgotten."""
        return self._resident is not None or self._kept is not None

    async def ask(self, message: Message, reader: Reader) -> Named | Prediction:
        """One message on its shortest way. The first one says which model and session are meant: it raises
        ModelNotFound or SessionNotFound, and then the next one is the first."""
        if not self._is_begun:
            self._begin(message)
        plain = reader.to_plain(message)
        if plain is not None and (named := await self.answer_plain(plain)) is not None:
            return named
        return await self.answer(*reader.to_request(message, self._owner))

    def search_cost(self, num_words: int) -> float:
        """Of so many words, about, in the gate's unit, beside the turn: it takes one step or dozens."""
        if not 0 < num_words <= checks.MAX_WORDS:
            return 0.0
        return _SEARCH_COST + _WORD_COST * num_words + self._vocabulary_size / _TOKENS_PER_COST

    def name(self, session_id: str) -> None:
        """The first message's. Raises SessionNotFound for what cannot be the id of one: it is not kept."""
        if session_id and not checks.is_name(session_id):
            raise SessionNotFound(f"there is no session {session_id}")
        self._session_id = session_id
        if not session_id:
            self._residents = self._carrying.residents
        self._is_begun = True

    def begin_plain(self, plain: Plain, sink: Sink) -> bool:
        """Whether the sink will have the answer, or has it already, without anybody waiting."""
        resident = self._resident
        if resident is None or resident.is_leaving or not self._goes_on or not self._is_sound(plain):
            return False
        if self._is_in_room:
            self._room.touch(self._owner, self)
        try:
            return self._residents.may_take(resident, plain) and self._residents.begin_turn(resident, plain, sink)
        except CarouselError as error:
            sink.put(error)
            return True

    async def answer_plain(self, plain: Plain) -> Named | None:
        """None: it did not happen, and is to go the ordinary way."""
        if not self._goes_on or not self._residents.is_enabled or not self._is_sound(plain):
            return None
        self._is_asked = True
        try:
            return await self._answer_plain(plain)
        finally:
            self._is_asked = False

    async def answer(self, request: PredictionRequest, given: Caller) -> Prediction:
        """The ordinary way; `given` is as the message has it, the session apart."""
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
        if not self._residents.may_take(self._resident, plain):
            return None
        return await self._residents.take_turn(self._resident, plain)

    async def _carry_on(self, caller: Caller, request: PredictionRequest) -> Prediction:
        """Without a session."""
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
        """What is carried, for the ordinary way."""
        if self._kept is not None:
            self._carried = await self._carrying.fetch(self._kept)
            self._kept = self._resident = None

    def _is_sound(self, plain: Plain) -> bool:
        if not self._session_id and (plain.request_id or plain.expected_position is not None):
            return False  # it will be refused
        return (
            0 <= plain.token_id < self._vocabulary_size
            and 1 <= plain.num_candidates <= checks.MAX_CANDIDATES
            and (not plain.request_id or is_request_id(plain.request_id))
        )

    @property
    def _is_carrying(self) -> bool:
        return bool(self._sealed) or self._carried is not None or self._kept is not None

    async def _enter_room(self, caller: Caller) -> None:
        """Raises Overloaded, or SessionEvicted from when what was carried had to go until a state is brought."""
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
        """What is carried: it cannot be gone on with. The key under which it is still kept, if it is."""
        self._is_in_room, self._is_given_up = False, True
        return self._let_go()

    def _let_go(self) -> Key | None:
        kept, self._kept, self._resident = self._kept, None, None
        self._sealed, self._carried, self._goes_on = b"", None, False
        return kept

    async def close(self) -> None:
        """Give the session back."""
        if self._resident is not None and not self._resident.is_leaving:
            self._resident.is_excused = True
            await self._residents.leave(self._resident.key)
        self._leave_room()
        if self._kept is not None:
            kept, self._kept = self._kept, None
            await self._carrying.drop(kept)

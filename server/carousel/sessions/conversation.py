"""One Predict stream: what it carries from message to message, and the shortest way for each message.

A stream that goes on on a session holds it, as a resident, and its plain messages stay there; everything else (words,
several tokens, repeats, whoever else has come in between) goes the ordinary way, which takes the session first. What a
stream without a session carries is held in the same way.
"""

from dataclasses import replace
from typing import Protocol

from carousel.errors import CarouselError
from carousel.sessions import checks
from carousel.sessions.carried import CarriedSequences
from carousel.sessions.deeds import is_request_id
from carousel.sessions.order import Key
from carousel.sessions.requests import Caller, Prediction, PredictionRequest
from carousel.sessions.resident import Named, Plain, Resident, Sink
from carousel.sessions.residents import Residents
from carousel.turns import Snapshot


class Predictor(Protocol):
    """The ordinary way."""

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
        self._owner = owner
        self._vocabulary_size = vocabulary_size
        self._session_id = ""
        self._sealed = b""  # the last state, when the client brought one
        self._carried: Snapshot | None = None  # the sequence of a stream that names no session and brings no state
        self._kept: Key | None = None  # under which that is kept among the carried ones instead
        self._goes_on = False  # on a session, whose first turn has been done, or on what is carried
        self._resident: Resident | None = None

    def name(self, session_id: str) -> None:
        """The first message's."""
        self._session_id = session_id
        if not session_id:
            self._residents = self._carrying.residents

    def begin_plain(self, plain: Plain, sink: Sink) -> bool:
        """Whether the sink will have the answer, or has it already, without anybody waiting."""
        resident = self._resident
        if resident is None or resident.is_leaving or not self._goes_on or not self._is_sound(plain):
            return False
        try:
            return self._residents.may_take(resident, plain) and self._residents.begin_turn(resident, plain, sink)
        except CarouselError as error:
            sink.put(error)
            return True

    async def answer_plain(self, plain: Plain) -> Named | None:
        """None: it did not happen, and is to go the ordinary way."""
        if not self._goes_on or not self._residents.is_enabled or not self._is_sound(plain):
            return None
        if self._resident is None or self._resident.is_leaving:
            self._resident, named = await self._residents.move_in(await self._key(), plain)
            return named
        if not self._residents.may_take(self._resident, plain):
            return None
        return await self._residents.take_turn(self._resident, plain)

    async def answer(self, request: PredictionRequest, given: Caller) -> Prediction:
        """The ordinary way; `given` is as the message has it, the session apart."""
        caller = replace(given, session_id=self._session_id)
        if self._session_id:
            prediction = await self._predict_on_session(caller, request)
            self._goes_on = True
            return prediction
        if self._sealed or caller.state:
            self._goes_on = False
            await self._fetch()
            self._carried = None
            prediction = await self._predictor.predict(replace(caller, state=caller.state or self._sealed), request)
            self._sealed = prediction.standing.state
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

    async def close(self) -> None:
        """Give the session back."""
        if self._resident is not None and not self._resident.is_leaving:
            self._resident.is_excused = True
            await self._residents.leave(self._resident.key)
        if self._kept is not None:
            kept, self._kept = self._kept, None
            await self._carrying.drop(kept)

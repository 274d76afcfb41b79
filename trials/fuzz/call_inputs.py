"""Calls: valid requests with accidents, sealed states, page tokens, and random orders of all of them."""

import base64
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message
from trials.fuzz.accidents import spoil
from trials.fuzz.methods import METHODS, Method
from trials.fuzz.mutations import hostile_text, mutate
from trials.fuzz.scripts import Fate, Memory, Metadata, Script, Step
from trials.fuzz.sound_requests import POOL, draw_request
from trials.fuzz.state_inputs import draw_state

from carousel.bundle.manifest import Manifest
from carousel.v1 import sessions_pb2

OWNER_METADATA = "x-user"
OWNER = "u1"
_FAR = 4e9  # when the sealed states expire
_ON_STATES = ("ImportSession", "ImportSession", "Generate", "Predict", "Score")
_NAMES = (*METHODS, "Generate", "Predict", "PredictMany", "Score", "ForkSession", "RewindSession")
_IN_ORDERS = (
    *(
        "Generate",
        "Predict",
        "PredictMany",
        "PredictMany",
        "Score",
        "CreateSession",
        "ForkSession",
        "RewindSession",
        "SaveCheckpoint",
    ),
    *("ExportSession", "ImportSession", "ListSessions", "DeleteSession", "GetHistory", "InspectSession"),
)
_TOKEN_TEXTS = ("nan ", "inf x", "-inf ", "1e999 x", "-1 \0", "1.8e9", " ", "1_0 a", "0x1p3 a", "\N{SUPERSCRIPT TWO} a")


def draw_metadata(dice: random.Random, has_owners: bool) -> Metadata:
    """Where a proxy names the callers: usually one good name; otherwise none, two or a strange one."""
    if not has_owners:
        return () if dice.random() < 0.9 else ((OWNER_METADATA, "u2"), ("x-odd-bin", dice.randbytes(20)))
    if dice.random() < 0.9:
        return ((OWNER_METADATA, OWNER),)
    strange: Sequence[Metadata] = (
        (),
        ((OWNER_METADATA, ""),),
        ((OWNER_METADATA, "u1"), (OWNER_METADATA, "u2")),
        ((OWNER_METADATA, "u2"),),
        ((OWNER_METADATA, "x" * dice.choice((1, 300, 4000))),),
        ((OWNER_METADATA, " ~!/\\{}:"),),
    )
    return dice.choice(strange)


def draw_fate(dice: random.Random, method: Method) -> Fate:
    if method.is_endless:
        return Fate(seconds=dice.choice((0.001, 0.01)))
    if dice.random() < 0.85:
        return Fate()
    return Fate(num_answers=dice.randrange(3)) if dice.random() < 0.5 else Fate(seconds=dice.random() * 0.02)


def messages(dice: random.Random, manifest: Manifest, has_owners: bool) -> Script:
    """Any method: valid, with hostile fields, or with bytes that are not a message."""
    method = METHODS[dice.choice(_NAMES)]
    count = dice.choice((0, 1, 1, 2, 3)) if method.takes_stream else 1
    contents = [_spoil(dice, draw_request(dice, method.name)) for _ in range(count)]
    metadata = draw_metadata(dice, has_owners)
    return Script((Step(method, lambda _: contents, draw_fate(dice, method)),), metadata)


def _spoil(dice: random.Random, message: Message) -> bytes:
    chance = dice.random()
    if chance > 0.5:
        spoil(message, dice)
    if chance > 0.9:
        return mutate(message.SerializeToString(), dice)
    return message.SerializeToString()


def states(dice: random.Random, manifest: Manifest, has_owners: bool) -> Script:
    """A sealed state, valid or not, imported or continued, once or twice."""
    metadata = draw_metadata(dice, has_owners)
    state = draw_state(dice, manifest, owner=OWNER if has_owners else "", now=_FAR, share_whole=0.6, is_refitted=False)
    steps = []
    for _ in range(dice.choice((1, 1, 1, 2))):
        name = dice.choice(_ON_STATES)
        request: Any = draw_request(dice, name)
        request.state = state
        if dice.random() < 0.9 and name != "ImportSession":
            request.session_id = request.request_id = ""
        if dice.random() < 0.1:
            spoil(request, dice)
        steps.append(_sure_step(METHODS[name], request, draw_fate(dice, METHODS[name])))
    return Script(tuple(steps), metadata, overlap=dice.random() < 0.2)


def _sure_step(method: Method, request: Message, fate: Fate) -> Step:
    content = [request.SerializeToString()]
    return Step(method, lambda _: content, fate)


def page_tokens(dice: random.Random, manifest: Manifest, has_owners: bool) -> Script:
    request = sessions_pb2.ListSessionsRequest(page_size=dice.choice((0, 1, 7)), page_token=_draw_token(dice))
    content = [request.SerializeToString()]
    return Script((Step(METHODS["ListSessions"], lambda _: content),), draw_metadata(dice, has_owners))


def _draw_token(dice: random.Random) -> str:
    whole = f"{dice.choice((0.0, 1.7e9, 4e9))!r} {dice.choice(POOL)}"
    match dice.randrange(6):
        case 0 | 1:
            return base64.urlsafe_b64encode(whole.encode()).decode()
        case 2:
            return hostile_text(dice)
        case 3:
            return base64.urlsafe_b64encode(dice.choice(_TOKEN_TEXTS).encode()).decode()
        case 4:
            return base64.urlsafe_b64encode(mutate(whole.encode(), dice)).decode()
        case _:
            return mutate(base64.urlsafe_b64encode(whole.encode()), dice).decode(errors="replace")


def orders(dice: random.Random, manifest: Manifest, has_owners: bool) -> Script:
    """Three to eight calls on one or two sessions, in sequence or all at once, some given up early."""
    sessions = dice.sample(POOL, 2)
    steps = tuple(_order_step(dice, sessions) for _ in range(dice.randrange(3, 9)))
    owner: Metadata = ((OWNER_METADATA, OWNER),) if has_owners else ()
    return Script(steps, owner, overlap=dice.random() < 0.3)


def _order_step(dice: random.Random, sessions: Sequence[str]) -> Step:
    method = METHODS[dice.choice(_IN_ORDERS)]
    request: Any = draw_request(dice, method.name)
    for part in _parts(request):
        if getattr(part, "session_id", "") in POOL:
            part.session_id = dice.choice(sessions)
    heeds_memory = dice.random() < 0.7
    fate = draw_fate(dice, method) if dice.random() < 0.6 else Fate()

    def make(memory: Memory) -> Sequence[bytes]:
        if heeds_memory:
            for part in _parts(request):
                _heed(part, memory)
        return [request.SerializeToString()]

    return Step(method, make, fate)


def _parts(request: Any) -> Sequence[Any]:
    """Returns the parts of a frame, otherwise the request itself."""
    return [item.request for item in request.items] if request.DESCRIPTOR.name == "PredictManyRequest" else [request]


def _heed(request: Any, memory: Memory) -> None:
    """Fills in what earlier calls returned: the position, a state, a page."""
    fields = request.DESCRIPTOR.fields_by_name
    if "expected_position" in fields and request.session_id in memory.positions:
        request.expected_position = memory.positions[request.session_id]
    if "page_token" in fields:
        request.page_token = memory.page_token
    if request.DESCRIPTOR.name == "ImportSessionRequest" or ("state" in fields and not request.session_id):
        request.state = memory.state


CALLS: Mapping[str, Callable[[random.Random, Manifest, bool], Script]] = {
    "messages": messages,
    "states": states,
    "page_tokens": page_tokens,
    "orders": orders,
}

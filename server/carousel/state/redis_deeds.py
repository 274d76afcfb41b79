"""The deeds of owners' requests in Redis, where one script reaches one session. A deed is recorded before it is done,
with all that is needed to finish it: a retry after a crash finishes it, and any other retry does nothing.

A record is pending until the whole deed is done, or undoing until nothing of it is left; then it is done or removed.
Only one server takes each of these steps, however many carry out the request.
"""

import base64
import enum
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from carousel.state.redis_link import RedisLink
from carousel.state.store import DEED_SECONDS, Birth, Deed, Parts

_TOKEN_BYTES = 8


class Stage(enum.StrEnum):
    """The progress of a request: the first letter of its record."""

    PENDING = "p"
    UNDOING = "u"
    DONE = "d"


@dataclass(frozen=True, slots=True)
class Intent:
    """A deed, and the sessions that it creates; none where it ends one, or where it is done."""

    deed: Deed
    births: tuple[Birth, ...] = ()
    stage: Stage = Stage.PENDING
    token: str = field(default_factory=lambda: secrets.token_hex(_TOKEN_BYTES))

    @property
    def head(self) -> str:
        return self.stage + self.token


class RedisDeeds:
    """Intents by owner and request id, each under its own key."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def record(self, intent: Intent) -> Intent:
        """Returns the first intent with this id: the given one, or an earlier one."""
        content = (intent.head + _write(intent)).encode()
        frees = int(not intent.births)
        found = await self._link.call("record", _keys(intent.deed), (content, int(1000 * DEED_SECONDS), frees))
        return intent if found is None else _read(intent.deed.owner, intent.deed.request_id, found)

    async def find(self, owner: str, request_id: str) -> Intent | None:
        (key,) = _keys(Deed(owner, request_id, "", ()))
        content = await self._link.execute("GET", key)
        return _read(owner, request_id, content) if content is not None else None

    async def settle(self, intent: Intent, stage: Stage | None, patience_seconds: float) -> bool:
        """Moves the intent from the stage in which it was seen to the next one, or removes it. Returns whether it is in
        that stage now. A done intent keeps only the deed."""
        after = replace(intent, stage=stage, births=()) if stage is not None else None
        content = _write(after) if after is not None and stage is Stage.DONE else ""
        heads = (intent.head, after.head if after is not None else "")
        return bool(await self._link.call("settle", _keys(intent.deed), (*heads, content), patience_seconds))


def _keys(deed: Deed) -> tuple[str]:
    return (f"carousel2:{{{quote(deed.owner, safe='')}:{quote(deed.request_id, safe='')}}}:deed",)


def _write(intent: Intent) -> str:
    facts: dict[str, object] = {"fingerprint": intent.deed.fingerprint, "targets": intent.deed.targets}
    if intent.births:
        # The births of one request usually start with equal parts, so equal parts are written once.
        distinct: list[Parts] = []
        for birth in intent.births:
            if birth.parts not in distinct:
                distinct.append(birth.parts)
        facts["parts"] = [_encode(parts) for parts in distinct]
        facts["births"] = [
            (birth.id, birth.incarnation, birth.position, distinct.index(birth.parts)) for birth in intent.births
        ]
    return json.dumps(facts)


def _read(owner: str, request_id: str, content: bytes) -> Intent:
    head = content[: 1 + 2 * _TOKEN_BYTES].decode()
    facts: dict[str, Any] = json.loads(content[len(head) :])
    targets = tuple((session_id, incarnation) for session_id, incarnation in facts["targets"])
    parts = [_decode(one) for one in facts.get("parts", ())]
    births = tuple(
        Birth(session_id, owner, incarnation, position, parts[which])
        for session_id, incarnation, position, which in facts.get("births", ())
    )
    return Intent(Deed(owner, request_id, facts["fingerprint"], targets), births, Stage(head[0]), head[1:])


def _encode(parts: Parts) -> dict[str, str]:
    return {name: base64.b64encode(part).decode() for name, part in parts.items()}


def _decode(parts: Mapping[str, str]) -> Parts:
    return {name: base64.b64decode(part) for name, part in parts.items()}

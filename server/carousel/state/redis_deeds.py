"""What owners' requests did, in Redis, where one script reaches one session: written down before it is done, with all
that is needed to finish it, so that a repeat after a crash finishes it and any other does nothing."""

import base64
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from carousel.errors import CarouselError
from carousel.state.redis_link import RedisLink
from carousel.state.store import DEED_SECONDS, Birth, Deed


@dataclass(frozen=True, slots=True)
class Intent:
    """A deed, and the sessions that it makes; none where it ends one, or when they have been made."""

    deed: Deed
    births: tuple[Birth, ...] = ()
    is_done: bool = False


class RedisDeeds:
    """Intents by owner and request id, each under a key of its own."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def record(self, intent: Intent) -> Intent:
        """The first one under its id: this one, or one that was there."""
        key, content = _key(intent.deed.owner, intent.deed.request_id), _write(intent)
        await self._link.execute("SET", key, content, "NX", "PX", int(1000 * DEED_SECONDS))
        return await self.find(intent.deed.owner, intent.deed.request_id) or intent

    async def find(self, owner: str, request_id: str) -> Intent | None:
        content = await self._link.execute("GET", _key(owner, request_id))
        return _read(owner, request_id, content) if content is not None else None

    async def note_done(self, intent: Intent) -> None:
        """What it makes was made: from now on nothing can finish it, also when the sessions have ended and their ids
        are used again, and what that would need is let go of. Never raises: else the sessions themselves tell."""
        key = _key(intent.deed.owner, intent.deed.request_id)
        with contextlib.suppress(CarouselError):
            await self._link.execute("SET", key, _write(Intent(intent.deed, is_done=True)), "XX", "KEEPTTL")

    async def forget(self, deed: Deed) -> None:
        """Of a request that was refused: nothing came of it."""
        await self._link.execute("DEL", _key(deed.owner, deed.request_id))


def _key(owner: str, request_id: str) -> str:
    return f"carousel2:{{{quote(owner, safe='')}:{quote(request_id, safe='')}}}:deed"


def _write(intent: Intent) -> str:
    facts: dict[str, object] = {"fingerprint": intent.deed.fingerprint, "targets": intent.deed.targets}
    if intent.is_done:
        facts["is_done"] = True
    if intent.births:
        facts["births"] = [[birth.id, birth.incarnation, birth.position] for birth in intent.births]
        # All that one request makes begin alike, so their parts are written once.
        facts["parts"] = {name: base64.b64encode(part).decode() for name, part in intent.births[0].parts.items()}
    return json.dumps(facts)


def _read(owner: str, request_id: str, content: bytes) -> Intent:
    facts = json.loads(content)
    targets = tuple((session_id, incarnation) for session_id, incarnation in facts["targets"])
    deed = Deed(owner, request_id, facts["fingerprint"], targets)
    parts = {name: base64.b64decode(part) for name, part in facts.get("parts", {}).items()}
    births: Sequence[tuple[str, int, int]] = facts.get("births", ())
    made = tuple(Birth(name, owner, number, position, parts) for name, number, position in births)
    return Intent(deed, made, facts.get("is_done", False))

"""States that clients carry: sealed, so that nobody can read or alter them, and bound to an owner and a model.

    "CRSB" | version u8 | key id 8 | nonce 12 | blob id 16 | expiry f64 | model digest 32 | owner 16 | ciphertext, tag

ChaCha20-Poly1305 (RFC 8439) encrypts the snapshot and also authenticates everything before it. The first key seals and
all keys open, so keys can change without a pause.
"""

import hashlib
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from carousel.errors import Overloaded, StateRefused
from carousel.shares import Shares
from carousel.tidy_heap import TidyHeap

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_HEAD = struct.Struct("<4sB8s12s16sd32s16s")
_MAGIC = b"CRSB"
_VERSION = 1
KEY_BYTES = 32
MAX_USED_SEALS = 1_000_000
_REPEAT_SECONDS = 300.0  # stores remember requests for longer, so a late retry is never a second use
_MAX_FORGOTTEN = 64  # expired uses per new use: their number shrinks, and no caller waits for all of them

_Hint = tuple[float, str]  # when a used state expires, its blob id


@dataclass(frozen=True, slots=True)
class Opened:
    """The contents of a sealed state. `blob_id` lets the sealer refuse a second use."""

    snapshot: bytes
    blob_id: str
    expires_at: float
    owner: str


class Sealer:
    """Seals and opens one model's snapshots. Without keys it refuses both, with the reason. If it does not allow
    replay, it remembers which sealed states were used."""

    def __init__(self, keys: Sequence[bytes], model_digest: str, *, allows_replay: bool = True) -> None:
        self._keys = {_key_id(key): _make_cipher(key) for key in keys}
        self._digest = bytes.fromhex(model_digest)
        self._used = None if allows_replay else UsedSeals()

    def seal(self, snapshot: bytes, owner: str, expires_at: float) -> bytes:
        key_id = self._first_key()
        nonce, blob_id = secrets.token_bytes(12), secrets.token_bytes(16)
        owner_hash = _hash_owner(owner)
        head = _HEAD.pack(_MAGIC, _VERSION, key_id, nonce, blob_id, expires_at, self._digest, owner_hash)
        return head + self._keys[key_id].encrypt(nonce, snapshot, head)

    def open(self, blob: bytes, owner: str, now: float) -> Opened:
        """Opens a sealed state. Raises StateRefused with the reason: altered, unknown key, expired, another owner's or
        another model's."""
        self._first_key()
        if len(blob) < _HEAD.size or not blob.startswith(_MAGIC):
            raise StateRefused("this is not a sealed state", why="not_a_state")
        _, version, key_id, nonce, blob_id, expires_at, digest, owner_hash = _HEAD.unpack_from(blob)
        if version != _VERSION:
            raise StateRefused(f"the sealed state has format version {version}", why="version")
        if key_id not in self._keys:
            raise StateRefused("the sealed state was made with a key that this server does not have", why="unknown_key")
        from cryptography.exceptions import InvalidTag

        try:
            snapshot = self._keys[key_id].decrypt(nonce, blob[_HEAD.size :], blob[: _HEAD.size])
        except InvalidTag:
            raise StateRefused("the sealed state was altered", why="altered") from None
        if digest != self._digest:
            raise StateRefused(f"the sealed state belongs to model {digest.hex()[:16]}", why="other_model")
        if owner_hash != _hash_owner(owner):
            raise StateRefused("the sealed state belongs to someone else", why="foreign")
        if expires_at <= now:
            raise StateRefused("the sealed state has expired", why="expired")
        return Opened(snapshot, blob_id.hex(), expires_at, owner)

    def note_use(self, opened: Opened, now: float, request: bytes = b"") -> None:
        """Notes a use of the state. Until the use is settled, a retry of the request may use the state again. Raises
        StateRefused or Overloaded."""
        if self._used is not None:
            self._used.note(opened, now, request)

    def settle(self, opened: Opened) -> None:
        """Settles the use: the request is done and recorded. From now on, no other use counts as a retry."""
        if self._used is not None:
            self._used.settle(opened)

    def forgive(self, opened: Opened) -> None:
        """Allows another use: this one was refused, and nothing of it was sent."""
        if self._used is not None:
            self._used.forgive(opened)

    def _first_key(self) -> bytes:
        if not self._keys:
            raise StateRefused("this server has no sealing key (setting seal_keys)", why="no_key")
        return next(iter(self._keys))


class UsedSeals:
    """The used sealed states, until they expire. Their number is bounded: beyond `max_used`, an owner at its share is
    refused. No use is forgotten early."""

    def __init__(self, max_used: int = MAX_USED_SEALS) -> None:
        self._max_used = max_used
        self._used: dict[str, tuple[_Hint, str]] = {}  # by blob id, with owners
        self._requests: dict[str, tuple[bytes, float]] = {}  # by blob id: whose retry may use it, until when
        self._expiries: TidyHeap[_Hint] = TidyHeap()  # forgiven uses leave it gradually
        self._shares = Shares()

    def __repr__(self) -> str:
        return f"UsedSeals({len(self._used)} of {self._max_used})"

    def note(self, opened: Opened, now: float, request: bytes = b"") -> None:
        """Notes a use. Raises StateRefused if the state was used before, except by a retry of an unsettled request."""
        self._forget_expired(now)
        if opened.blob_id in self._used:
            of_whom, until = self._requests.get(opened.blob_id, (b"", 0.0))
            if request and request == of_whom and now < until:
                return
            raise StateRefused("the sealed state was used before", why="replayed")
        share = self._shares.share(self._max_used, opened.owner)
        if len(self._used) >= self._max_used and self._shares.used(opened.owner) >= share:
            text = f"{len(self._used)} used states are remembered already"
            raise Overloaded(text, limit="max_used_seals", retry_seconds=60.0)
        hint = (opened.expires_at, opened.blob_id)
        self._used[opened.blob_id] = hint, opened.owner
        self._shares.change(opened.owner, 1)
        self._expiries.push(hint)
        if request:
            self._requests[opened.blob_id] = request, now + _REPEAT_SECONDS

    def settle(self, opened: Opened) -> None:
        """Settles the use: the request is done and recorded. From now on, no other use counts as a retry."""
        self._requests.pop(opened.blob_id, None)

    def forgive(self, opened: Opened) -> None:
        """Allows another use: this one had no effect, and nothing of it was sent."""
        if opened.blob_id in self._used:
            self._drop(opened.blob_id)
            self._expiries.tidy(len(self._used), self._renew)

    def _forget_expired(self, now: float) -> None:
        for _ in range(_MAX_FORGOTTEN):
            hint = self._expiries.peek()
            if hint is None or hint[0] > now:
                return
            if self._renew(self._expiries.pop()) is not None:
                self._drop(hint[1])

    def _drop(self, blob_id: str) -> None:
        _, owner = self._used.pop(blob_id)
        self._requests.pop(blob_id, None)
        self._shares.change(owner, -1)

    def _renew(self, hint: _Hint) -> _Hint | None:
        good, _ = self._used.get(hint[1], (None, ""))
        return hint if hint is good else None


def _make_cipher(key: bytes) -> "ChaCha20Poly1305":
    """Imports the cipher late: the library takes 7 MiB and some time, which a server without keys saves."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)


def _key_id(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=8, person=b"carousel key id").digest()


def _hash_owner(owner: str) -> bytes:
    return hashlib.blake2b(owner.encode(), digest_size=16, person=b"carousel owner").digest()

"""Snapshots and sealed states: valid, spoiled, and spoiled with a matching checksum or seal."""

import base64
import random
import struct
import zlib
from unittest import mock

import numpy as np
from trials.fuzz.decoder import Decoder, Place
from trials.fuzz.mutations import hostile_integer, mutate

from carousel.bundle.manifest import Manifest
from carousel.sessions.sealing import Sealer
from carousel.state.codec import SnapshotCodec
from carousel.turns import Snapshot

KEY = bytes(range(32))
KEY_TEXT = base64.b64encode(KEY).decode()
OTHER_KEY = bytes(32)
_NOW = 1.8e9
_CHECK = struct.Struct("<I")


def make_codec(manifest: Manifest) -> SnapshotCodec:
    return SnapshotCodec(manifest.state, manifest.digest, manifest.hidden_size)


def draw_snapshot(dice: random.Random, manifest: Manifest) -> Snapshot:
    """Returns a plausible past, as a model with bounded states could leave it."""
    noise = np.random.default_rng(dice.getrandbits(63))
    state = tuple(noise.uniform(-1, 1, t.shape).astype(t.dtype) for t in manifest.state.tensors)
    is_twin = bool(state) and state[0].shape == (manifest.hidden_size,) and dice.random() < 0.7
    hidden_H = state[0] if is_twin else noise.uniform(-1, 1, manifest.hidden_size).astype(np.float32)
    recent_ids = tuple(dice.randrange(manifest.vocabulary_size) for _ in range(dice.choice((0, 1, 64))))
    position = dice.choice((0, 1, 5, 1000, 2**40))
    return Snapshot(position, state, hidden_H, recent_ids, dice.choice((b"", b"", b"\xe2\x82", b"\xf0")))


def seal(dice: random.Random, sealer: Sealer, snapshot: bytes, owner: str, expires_at: float) -> bytes:
    """Seals as the server does, with a nonce from the dice."""
    with mock.patch("secrets.token_bytes", dice.randbytes):
        return sealer.seal(snapshot, owner, expires_at)


def draw_state(
    dice: random.Random,
    manifest: Manifest,
    *,
    owner: str = "",
    now: float = _NOW,
    share_whole: float = 0.25,
    is_refitted: bool = True,
) -> bytes:
    """Returns a sealed state of the owner, valid with probability `share_whole`; otherwise spoiled, expired, foreign,
    or with a spoiled snapshot under a valid seal. Without `is_refitted` no such snapshot has a matching checksum."""
    codec, sealer = make_codec(manifest), Sealer([KEY], manifest.digest)
    snapshot = codec.encode(draw_snapshot(dice, manifest))
    if dice.random() < share_whole:
        return seal(dice, sealer, snapshot, owner, now + 3600)
    match dice.randrange(8):
        case 0:
            return seal(dice, sealer, snapshot, owner, dice.choice((0.0, now - 1, float("-inf"), -1e308)))
        case 1:
            return seal(dice, sealer, snapshot, "somebody else", now + 3600)
        case 2:
            return seal(dice, Sealer([OTHER_KEY], manifest.digest), snapshot, owner, now + 3600)
        case 3:
            return seal(dice, Sealer([KEY], "ab" * 32), snapshot, owner, now + 3600)
        case 4:
            spoiled = spoil_snapshot(dice, snapshot) if is_refitted else mutate(snapshot, dice)
            return seal(dice, sealer, spoiled, owner, now + 3600)
        case 5:
            return dice.randbytes(dice.randrange(300))
        case _:
            return mutate(seal(dice, sealer, snapshot, owner, now + 3600), dice)


def spoil_snapshot(dice: random.Random, snapshot: bytes) -> bytes:
    """Adds accidents in any place, usually with a matching checksum."""
    content = bytearray(snapshot)
    if dice.random() < 0.5:  # the lengths and numbers of the head
        at, size = dice.choice(((4, 1), (5, 2), (7, 2), (9, 1), (10, 2), (12, 1), (45, 8)))
        content[at : at + size] = (hostile_integer(dice) % 256**size).to_bytes(size, "little")
    spoiled = bytes(content) if dice.random() < 0.5 else mutate(bytes(content), dice)
    if dice.random() < 0.2:
        return spoiled
    body = spoiled[: -_CHECK.size]
    return body + _CHECK.pack(zlib.crc32(body))


def snapshots(place: Place) -> Decoder:
    manifest = place.bundle.manifest
    codec = make_codec(manifest)

    def make(dice: random.Random) -> bytes:
        if dice.random() < 0.05:
            return dice.randbytes(dice.randrange(400))
        whole = codec.encode(draw_snapshot(dice, manifest))
        return whole if dice.random() < 0.1 else spoil_snapshot(dice, whole)

    def attempt(content: bytes) -> None:
        codec.encode(codec.decode(content))  # what is accepted can be kept

    return Decoder(make, attempt)


def seals(place: Place) -> Decoder:
    manifest = place.bundle.manifest
    codec, sealer = make_codec(manifest), Sealer([KEY], manifest.digest)

    def attempt(content: bytes) -> None:
        codec.decode(sealer.open(content, "", _NOW).snapshot)

    return Decoder(lambda dice: draw_state(dice, manifest), attempt)

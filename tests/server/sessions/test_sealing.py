"""A sealed state opens for its owner on servers with the key and the model, and nowhere else."""

import secrets
import time

import pytest

from carousel.errors import Overloaded, StateRefused
from carousel.sessions.sealing import KEY_BYTES, Opened, Sealer, UsedSeals

MODEL, OTHER_MODEL = "ab" * 32, "cd" * 32
OLD, NEW = bytes([1]) * KEY_BYTES, bytes([2]) * KEY_BYTES


def why(sealer: Sealer, blob: bytes, owner: str = "ann", now: float = 0.0) -> str:
    with pytest.raises(StateRefused) as refused:
        sealer.open(blob, owner, now)
    assert str(refused.value)
    return refused.value.details["why"]


@pytest.mark.parametrize("snapshot", [b"", b"x", secrets.token_bytes(5000)])
@pytest.mark.parametrize("owner", ["", "ann", "日本"])
def test_a_seal_opens_to_what_was_sealed(snapshot: bytes, owner: str) -> None:
    """Content and expiry come back, and the blob does not show the content."""
    sealer = Sealer([NEW], MODEL)
    blob = sealer.seal(snapshot, owner, 99.5)
    opened = sealer.open(blob, owner, 99.4)
    assert (opened.snapshot, opened.expires_at) == (snapshot, 99.5)
    assert len(snapshot) < 2 or snapshot not in blob


def test_no_two_seals_are_alike() -> None:
    """Two seals of the same content are two blobs with two ids."""
    sealer = Sealer([NEW], MODEL)
    blobs = {sealer.seal(b"x", "ann", 9) for _ in range(50)}
    assert len({sealer.open(blob, "ann", 0).blob_id for blob in blobs}) == len(blobs) == 50


def test_every_flipped_bit_is_refused() -> None:
    """A blob with any changed bit does not open, and the reason fits the place."""
    sealer = Sealer([NEW], MODEL)
    blob = sealer.seal(b"the state", "ann", 99)
    reasons = []
    for place in range(8 * len(blob)):
        bad = bytearray(blob)
        bad[place // 8] ^= 1 << place % 8
        reasons.append(why(sealer, bytes(bad)))
    heads = ["not_a_state"] * 32 + ["version"] * 8 + ["unknown_key"] * 64
    assert reasons == heads + ["altered"] * (8 * len(blob) - len(heads))


def test_a_cut_or_longer_blob_is_refused() -> None:
    """Only a blob of its own length opens."""
    sealer = Sealer([NEW], MODEL)
    blob = sealer.seal(b"the state", "ann", 99)
    for length in range(len(blob)):
        assert why(sealer, blob[:length]) in ("not_a_state", "altered")
    assert why(sealer, blob + b"\0") == "altered"
    assert why(sealer, b"") == "not_a_state"


def test_two_blobs_cannot_be_mixed() -> None:
    """The head of one and the content of another do not fit, although both are ours."""
    sealer = Sealer([NEW], MODEL)
    one, other = (sealer.seal(content, "ann", 99) for content in (b"one state", b"other one"))
    mixed = {one[:cut] + other[cut:] for cut in range(len(one))} - {one, other}
    assert len(mixed) > 30  # where both have the same byte, the two cuts are equal
    assert {why(sealer, blob) for blob in mixed} == {"altered"}


@pytest.mark.parametrize(
    ("owner", "now", "model", "reason"),
    [
        ("bob", 0.0, MODEL, "foreign"),
        ("", 0.0, MODEL, "foreign"),
        ("ann", 99.0, MODEL, "expired"),
        ("ann", 1e9, MODEL, "expired"),
        ("ann", 0.0, OTHER_MODEL, "other_model"),
    ],
)
def test_the_reason_is_told(owner: str, now: float, model: str, reason: str) -> None:
    """The reasons of another owner's, an expired and another model's state differ."""
    blob = Sealer([NEW], MODEL).seal(b"x", "ann", 99)
    assert why(Sealer([NEW], model), blob, owner, now) == reason


def test_keys_change_without_a_pause() -> None:
    """A server with the new key first opens old seals and makes new ones; without the old key it refuses old ones."""
    old, both, new = (Sealer(keys, MODEL) for keys in ([OLD], [NEW, OLD], [NEW]))
    before = old.seal(b"x", "ann", 9)
    assert both.open(before, "ann", 0).snapshot == b"x"
    after = both.seal(b"y", "ann", 9)
    assert new.open(after, "ann", 0).snapshot == b"y"
    assert why(new, before) == "unknown_key"
    assert why(old, after) == "unknown_key"


def test_a_key_is_not_in_the_blob() -> None:
    """The part that names the key does not reveal it."""
    assert NEW[:8] not in Sealer([NEW], MODEL).seal(b"x", "ann", 9)


def test_without_a_key_nothing_is_sealed_or_opened() -> None:
    """Both errors say that the server has no key."""
    sealer = Sealer([], MODEL)
    assert why(sealer, Sealer([NEW], MODEL).seal(b"x", "ann", 9)) == "no_key"
    with pytest.raises(StateRefused, match="seal_keys"):
        sealer.seal(b"x", "ann", 9)


def used(number: int, owner: str = "ann", expires_at: float = 10.0) -> Opened:
    return Opened(b"x", f"blob {number}", expires_at, owner)


def test_a_use_is_remembered_until_the_seal_expires_or_is_forgiven() -> None:
    """The second use is refused; after a forgiven use the next one is the first; an expired one is forgotten."""
    seals = UsedSeals()
    for number, expires_at in ((1, 10.0), (2, 5.0)):
        seals.note(used(number, expires_at=expires_at), 0)
    with pytest.raises(StateRefused, match="used before"):
        seals.note(used(1), 9)
    seals.forgive(used(1))
    seals.note(used(1), 9)
    with pytest.raises(StateRefused, match="used before"):
        seals.note(used(1), 9.5)
    assert repr(seals) == "UsedSeals(1 of 1000000)"


def test_remembering_a_use_takes_no_longer_when_many_are_remembered() -> None:
    """With 100,000 remembered uses, one more walks over only a few."""
    seals = UsedSeals()
    for number in range(100_000):
        seals.note(used(number, expires_at=1e9), 0)
    started = time.thread_time()
    for number in range(100):
        seals.note(used(-number - 1, expires_at=1e9), 0)
    assert time.thread_time() - started < 0.1  # it once took 62 ms each


def test_used_seals_are_bounded_and_shared() -> None:
    """At the bound, an owner with his share or more is refused by name and another is not; no use is forgotten."""
    seals = UsedSeals(max_used=4)
    for number in range(4):
        seals.note(used(number), 0)
    with pytest.raises(Overloaded) as refused:
        seals.note(used(9), 0)
    assert refused.value.limit == "max_used_seals"
    seals.note(used(9, owner="bob"), 0)
    for number in range(4):
        with pytest.raises(StateRefused):
            seals.note(used(number), 0)
    seals.note(used(10, expires_at=30.0), 10.0)


def test_forgiven_uses_leave_nothing_behind() -> None:
    """One state that is refused and forgiven over and over takes no more memory, or anybody could fill a server."""
    seals = UsedSeals()
    for number in range(100):
        seals.note(used(number, expires_at=1e9), 0)
    for _ in range(5_000):
        seals.note(used(-1, expires_at=1e9), 0)
        seals.forgive(used(-1))
    assert len(seals._expiries) < 500
    for number in range(100):
        with pytest.raises(StateRefused):
            seals.note(used(number, expires_at=1e9), 0)


def test_a_state_that_is_used_again_after_it_was_forgiven_is_forgotten_when_it_expires() -> None:
    """Many that expire together are forgotten a part with each new use, until none is left."""
    seals = UsedSeals()
    for number in range(1_000):
        seals.note(used(number), 0)
        seals.forgive(used(number))
        seals.note(used(number), 0)
    for number in range(100):
        seals.note(used(-1 - number, expires_at=30.0), 20.0)
    assert repr(seals) == "UsedSeals(100 of 1000000)"

"""No two pairs of owner and id share a key, and both hashes of a session share a slot."""

import itertools

from redis.crc import key_slot

from carousel.state.redis_rows import keys_of

NASTY = ["", "{", "}", "{}", "a", "a:b", "b", "a}:{b", ":", "%3A", "%", "a\0b", "\0", "a b", "é", "ann", "x" * 500]


def test_no_two_pairs_share_a_key() -> None:
    """Keys differ whatever braces, colons, NULs and escapes the names contain."""
    keys = [key for pair in itertools.product(NASTY, repeat=2) for key in keys_of(pair)]
    assert len(set(keys)) == len(keys) == 2 * len(NASTY) ** 2


def test_both_hashes_share_a_slot() -> None:
    """One script reaches both hashes; the sessions of one owner lie in many slots."""
    slots = set()
    for pair in itertools.product(NASTY, repeat=2):
        row, parts = keys_of(pair)
        assert key_slot(row.encode()) == key_slot(parts.encode())
        slots.add(key_slot(row.encode()))
    assert len(slots) > 250

"""Reproducible randomness, and the ways to spoil an input."""

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

INTEGERS = (0, 1, -1, 2, 7, 16, 64, 127, 128, 255, 256, 257, 1000, 4096, 65_535, 65_536, 2**31 - 1, -(2**31), 2**31)
LONG_INTEGERS = (*INTEGERS, 2**32, 2**53, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-300, 100.0, 101.0, 3.5e38, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    " ",
    "\0",
    "..",
    "../../etc/passwd",
    "a" * 64,
    "a" * 65,
    "a" * 129,
    "\N{REPLACEMENT CHARACTER}",
    "\N{PILE OF POO}\u200d\u0301" * 3,
    "\u202e\ufeff",
    "%s%n{0}{{",
    "';--",
    "nan",
    "1e999",
    "-0",
    "<unk>",
    "\r\n\r\n",
)
_MAX_BYTES = 1 << 17


def make_dice(seed: int, kind: str, number: int) -> random.Random:
    return random.Random(f"{seed} {kind} {number}")


def hostile_text(dice: random.Random) -> str:
    if dice.random() < 0.7:
        return dice.choice(TEXTS) * dice.choice((1, 1, 1, 3, 50))
    letters = dice.choice((dice.randrange(1, 128), dice.randrange(0xA0, 0xD800), dice.randrange(0x10000, 0x110000)))
    return "".join(chr(letters) for _ in range(dice.randrange(1, 40)))


def hostile_integer(dice: random.Random, low: int = -(2**63), high: int = 2**63 - 1) -> int:
    """Returns a special value between the bounds, or any value."""
    within = [one for one in LONG_INTEGERS if low <= one <= high]
    return dice.choice(within) if dice.random() < 0.8 else dice.randint(low, high)


def mutate(content: bytes, dice: random.Random) -> bytes:
    """Returns the bytes after one to four accidents."""
    spoiled = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        dice.choice(_ACCIDENTS)(spoiled, dice)
    return bytes(spoiled[:_MAX_BYTES])


def mutate_json(value: Any, dice: random.Random) -> Any:
    """Returns the value with a change inside: a leaf, a key, a whole branch."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        return _mutate_object(dict(value), dice)
    if isinstance(value, list) and value and dice.random() < 0.9:
        return _mutate_list(list(value), dice)
    return _strange_value(dice)


def _mutate_object(value: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    key = dice.choice(list(value))
    match dice.randrange(6):
        case 0:
            del value[key]
        case 1:
            value[hostile_text(dice)] = value[key]
        case 2:
            value[hostile_text(dice)] = value.pop(key)
        case _:
            value[key] = mutate_json(value[key], dice)
    return value


def _mutate_list(value: list[Any], dice: random.Random) -> list[Any]:
    at = dice.randrange(len(value))
    match dice.randrange(5):
        case 0:
            del value[at]
        case 1:
            value.insert(at, value[at])
        case _:
            value[at] = mutate_json(value[at], dice)
    return value


def _strange_value(dice: random.Random) -> Any:
    makers: Sequence[Callable[[], Any]] = (
        lambda: hostile_integer(dice),
        lambda: 10 ** dice.choice((20, 40, 400)),
        lambda: dice.choice(FLOATS),
        lambda: hostile_text(dice),
        lambda: dice.choice((None, True, False, [], {}, [[]], {"": None}, "\ud800")),
        lambda: [dice.choice(INTEGERS)] * dice.choice((1, 3, 70)),
        lambda: nested(dice.choice((3, 100))),
    )
    return dice.choice(makers)()


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def _flip(content: bytearray, dice: random.Random) -> None:
    if content:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)


def _set(content: bytearray, dice: random.Random) -> None:
    if content:
        content[dice.randrange(len(content))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))


def _cut(content: bytearray, dice: random.Random) -> None:
    del content[dice.randrange(len(content) + 1) :]


def _remove(content: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(content) + 1)
    del content[at : at + dice.choice((1, 2, 4, 8, 32))]


def _insert(content: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(content) + 1)
    content[at:at] = dice.randbytes(dice.choice((1, 2, 4, 8, 32)))


def _repeat(content: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(content) + 1)
    piece = content[at : at + dice.choice((1, 4, 16, 64))]
    content[at:at] = piece * dice.choice((1, 2, 30))


def _overwrite_number(content: bytearray, dice: random.Random) -> None:
    form = dice.choice(("<B", "<H", "<I", "<q", ">H", ">I"))
    size = struct.calcsize(form)
    if len(content) >= size:
        at = dice.randrange(len(content) - size + 1)
        number = hostile_integer(dice) % 2 ** (8 * size)
        content[at : at + size] = number.to_bytes(size, "big" if form[0] == ">" else "little")


_ACCIDENTS: Sequence[Callable[[bytearray, random.Random], None]] = (
    _flip,
    _set,
    _cut,
    _remove,
    _insert,
    _repeat,
    _overwrite_number,
)

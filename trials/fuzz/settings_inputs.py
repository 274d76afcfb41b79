"""Settings: names and values that people and programs put into an environment and onto a command line."""

import json
import random

from trials.fuzz.decoder import Decoder, Place
from trials.fuzz.mutations import FLOATS, hostile_integer, hostile_text, mutate

from carousel.settings import Settings, read_settings, split_address

_NAMES = tuple(Settings.model_fields)
_VALUES = (
    "",
    "0",
    "1",
    "64",
    "1e3",
    "0x10",
    "1_000",
    "none",
    "null",
    "true",
    "memory",
    "sqlite:/tmp/x.db",
    "redis://localhost",
    "evict",
    "refuse",
    "interval",
    "cpu,cuda",
    ",",
    "127.0.0.1:0",
    "[::1]:50051",
    ":",
    "host:99999",
    "host:\N{SUPERSCRIPT TWO}",
    "host:\N{ARABIC-INDIC DIGIT ONE}",
    "x-user",
    "X-User",
    "grpc-x",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "AAAA",
    "A" * 5,
    "[]",
    "{}",
    "9" * 5000,
    "\udcff",
)


def settings(place: Place) -> Decoder:
    return Decoder(_draw, _attempt)


def _draw(dice: random.Random) -> bytes:
    environ = {_name(dice, "CAROUSEL_"): _value(dice) for _ in range(dice.choice((0, 1, 1, 3)))}
    overrides = {_name(dice, ""): _value(dice) for _ in range(dice.choice((0, 1, 1, 3)))}
    return json.dumps([environ, overrides]).encode()


def _name(dice: random.Random, prefix: str) -> str:
    name = dice.choice(_NAMES) if dice.random() < 0.9 else hostile_text(dice)
    return prefix + name.upper() if prefix and dice.random() < 0.9 else prefix + name


def _value(dice: random.Random) -> str:
    match dice.randrange(6):
        case 0:
            return str(hostile_integer(dice))
        case 1:
            return str(dice.choice(FLOATS))
        case 2:
            return hostile_text(dice)
        case 3:
            return mutate(dice.choice(_VALUES).encode(errors="surrogateescape"), dice).decode(errors="surrogateescape")
        case _:
            return dice.choice(_VALUES)


def _attempt(content: bytes) -> None:
    environ, overrides = json.loads(content)
    read = read_settings(environ, overrides)
    _ = read.owner_limits
    for address in (read.listen, read.http_listen):
        split_address(address)

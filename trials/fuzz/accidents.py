"""Replaces fields of any message with hostile values; the message's descriptor lists the fields."""

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from trials.fuzz.mutations import FLOATS, hostile_integer, hostile_text

_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
}
_MANY = (0, 1, 3, 17, 101, 1025)


def spoil(message: Message, dice: random.Random) -> None:
    """Replaces one to three fields, here or in nested messages."""
    for _ in range(dice.choice((1, 1, 2, 3))):
        if message.DESCRIPTOR.fields:
            _spoil_field(message, dice.choice(message.DESCRIPTOR.fields), dice)


def _spoil_field(message: Message, field: FieldDescriptor, dice: random.Random) -> None:
    held: Any = getattr(message, field.name)
    if dice.random() < 0.15:
        message.ClearField(field.name)
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        _spoil_map(held, field, dice)
    elif field.is_repeated:
        if dice.random() < 0.5:
            del held[:]
        if field.message_type is not None:
            _spoil_messages(held, dice)
            return
        held.extend(_draw(field, dice) for _ in range(dice.choice(_MANY)))
    elif field.message_type is not None:
        held.SetInParent()
        spoil(held, dice)
    else:
        setattr(message, field.name, _draw(field, dice))


def _spoil_messages(held: Any, dice: random.Random) -> None:
    """Spoils some of the existing messages, or of new empty ones."""
    for _ in range(dice.choice(_MANY)):
        held.add()
    for message in dice.sample(list(held), min(len(held), 3)):
        spoil(message, dice)


def _spoil_map(held: Any, field: FieldDescriptor, dice: random.Random) -> None:
    key, value = field.message_type.fields
    for _ in range(dice.choice(_MANY)):
        held[_draw(key, dice)] = _draw(value, dice)


def _draw(field: FieldDescriptor, dice: random.Random) -> Any:
    if field.type in _INTEGERS:
        low, high = _INTEGERS[field.type]
        return hostile_integer(dice, low, high)
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return hostile_text(dice)
        case FieldDescriptor.TYPE_BYTES:
            return dice.randbytes(dice.choice((0, 1, 88, 300)))
        case FieldDescriptor.TYPE_BOOL:
            return dice.random() < 0.5
        case _:
            return dice.choice(FLOATS)

"""The frames of PredictMany as bytes. Incoming frames are decoded one item at a time; outgoing frames are joined from
encoded items.

Decoding a whole message cannot be interrupted, and a megabyte may hold half a million items, 42 MiB of objects. This
module knows only the outermost layer of the encoding (https://protobuf.dev/programming-guides/encoding).
"""

from google.protobuf.message import DecodeError

from carousel.sessions.calls import message_invalid
from carousel.v1 import language_model_pb2 as wire

Item = wire.PredictManyRequest.Item
_LENGTH = 2  # the wire type of messages, texts and bytes
_ITEMS = wire.PredictManyRequest.ITEMS_FIELD_NUMBER << 3 | _LENGTH
_ITEMS_KEY = bytes((wire.PredictManyResponse.ITEMS_FIELD_NUMBER << 3 | _LENGTH,))
_TAG_KEY = bytes((wire.PredictManyResponse.Item.TAG_FIELD_NUMBER << 3,))
RESPONSE = bytes((wire.PredictManyResponse.Item.RESPONSE_FIELD_NUMBER << 3 | _LENGTH,))
STATUS = bytes((wire.PredictManyResponse.Item.STATUS_FIELD_NUMBER << 3 | _LENGTH,))
_MAX_DIGITS, _MAX_SHORT_DIGITS = 10, 5  # for 64 bits, and for keys and lengths
_decode = Item.FromString


def read_item(content: bytes, at: int) -> tuple[Item | None, int]:
    """Returns the item at `at`, or None for a field of a later version, and where the next field begins. Raises
    MessageInvalid. Reads one field per call: a megabyte may hold half a million."""
    try:
        if content[at] != _ITEMS:
            return None, _skip(content, at)
        size = content[at + 1]
        at += 2
        if size >= 0x80:
            size, at = _read_varint(content, at - 1)
        end = at + size
        if end <= len(content):
            return _decode(content[at:end]), end
    except (IndexError, DecodeError) as error:
        raise message_invalid() from error
    raise message_invalid()  # the item is cut off


def make_item(tag: int, kind: bytes, content: bytes) -> bytes:
    """Returns an item of a PredictManyResponse as bytes; `kind` is RESPONSE or STATUS."""
    number, size = _varint(tag), _varint(len(content))
    whole = _varint(2 + len(number) + len(size) + len(content))
    return b"".join((_ITEMS_KEY, whole, _TAG_KEY, number, kind, size, content))


def _varint(number: int) -> bytes:
    return _VARINTS[number] if number < _NUM_VARINTS else _make_varint(number)


def _make_varint(number: int) -> bytes:
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _read_varint(content: bytes, at: int, max_digits: int = _MAX_SHORT_DIGITS) -> tuple[int, int]:
    """Returns the number at `at`, and where it ends."""
    number = 0
    for place in range(max_digits):
        digit = content[at + place]
        number |= (digit & 0x7F) << 7 * place
        if digit < 0x80:
            return number, at + place + 1
    raise message_invalid()


def _skip(content: bytes, at: int) -> int:
    """Skips an unknown field and returns its end. Refuses field 0, keys above 32 bits, and a longer encoding of the
    items' key."""
    key, at = _read_varint(content, at)
    if key < 1 << 3 or key == _ITEMS or key >> 32:
        raise message_invalid()
    end = _find_end(content, at, key & 7)
    if end > len(content):
        raise message_invalid()  # the field is cut off
    return end


def _find_end(content: bytes, at: int, wire_type: int) -> int:
    match wire_type:
        case 0:
            return _read_varint(content, at, _MAX_DIGITS)[1]
        case 1:
            return at + 8
        case 2:
            size, at = _read_varint(content, at)
            return at + size
        case 5:
            return at + 4
        case _:  # groups, which proto3 does not have, and unknown wire types
            raise message_invalid()


_NUM_VARINTS = 4096
_VARINTS = tuple(map(_make_varint, range(_NUM_VARINTS)))  # most lengths and tags

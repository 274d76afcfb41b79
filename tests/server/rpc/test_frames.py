"""Frames are read and written item by item as protobuf reads and writes them whole, and what is no frame is refused."""

import pytest
from google.protobuf import unknown_fields  # type: ignore[attr-defined]
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from hypothesis import example, given, settings
from hypothesis import strategies as some

from carousel.errors import MessageInvalid
from carousel.rpc.frames import RESPONSE, STATUS, Item, make_item, read_item
from carousel.v1 import language_model_pb2 as wire

TAGS = some.integers(0, 2**64 - 1) | some.sampled_from([0, 127, 128, 4095, 4096, 16_383, 16_384, 2**63])
UNKNOWN = {
    "varint": b"\x10\xff\xff\x01",
    "fixed64": b"\x19abcdefgh",
    "bytes": b"\x22\x81\x01" + b"x" * 129,
    "fixed32": b"\x2dabcd",
    "far field": b"\xfa\xff\x03\x02ab",
}


def read_all(content: bytes) -> list[Item]:
    items, at = [], 0
    while at < len(content):
        item, end = read_item(content, at)
        assert end > at
        at = end
        if item is not None:
            items.append(item)
    assert at == len(content)
    return items


def make_items(tags: list[int]) -> list[Item]:
    items = [Item(tag=tag, close=tag % 3 == 0) for tag in tags]
    for number, item in enumerate(items):
        if number % 2:
            item.request.input.text = "x" * (number * 37 % 300)
            item.request.k = number
    return items


@settings(max_examples=200, deadline=None)
@given(some.lists(TAGS, max_size=20))
def test_items_are_read_as_protobuf_reads_them(tags: list[int]) -> None:
    frame = wire.PredictManyRequest(items=make_items(tags))
    assert read_all(frame.SerializeToString()) == list(frame.items)


@pytest.mark.parametrize("extra", UNKNOWN.values(), ids=UNKNOWN)
def test_fields_of_later_versions_are_passed_over(extra: bytes) -> None:
    """Before, between and behind the items."""
    items = make_items([1, 2, 3])
    parts = [wire.PredictManyRequest(items=[item]).SerializeToString() for item in items]
    content = extra + extra.join(parts) + extra
    assert len(unknown_fields.UnknownFieldSet(wire.PredictManyRequest.FromString(content))) == 4
    assert read_all(content) == items


@settings(max_examples=1000, deadline=None)
@example(b"\x8d\x80\x80\x80\x10\x00\x00\x00\x00")  # a key of 33 bits
@given(some.binary(max_size=12) | some.binary(max_size=12).map(lambda rest: b"\x0a\x06\x08\x01\x12\x02\x18\x05" + rest))
def test_what_protobuf_refuses_is_refused(content: bytes) -> None:
    """And nothing is raised but that. Groups, which no version has, and keys that are longer than they need are refused
    too."""
    try:
        expected = list(wire.PredictManyRequest.FromString(content).items)
    except DecodeError:
        with pytest.raises(MessageInvalid):
            read_all(content)
        return
    try:
        assert read_all(content) == expected
    except MessageInvalid:
        assert any(byte & 7 in (3, 4) or byte >= 0x80 for byte in content)


@pytest.mark.parametrize(
    "content",
    [
        b"\x0a",
        b"\x0a\x05ab",
        b"\x0a\xff",
        b"\x0a" + b"\xff" * 12 + b"\x01",
        b"\x10",
        b"\x19abc",
        b"\x22\x05a",
        b"\x2da",
    ],
)
def test_what_is_cut_short_is_refused(content: bytes) -> None:
    with pytest.raises(MessageInvalid):
        read_all(content)


@settings(max_examples=300, deadline=None)
@given(some.lists(some.tuples(TAGS, some.integers(0, 40_000), some.booleans()), max_size=6))
def test_answers_are_written_as_protobuf_writes_them(given_answers: list[tuple[int, int, bool]]) -> None:
    """Lengths of one, two and three bytes."""
    content, expected = b"", wire.PredictManyResponse()
    for tag, size, is_response in given_answers:
        if is_response:
            response = wire.PredictResponse(state=b"x" * size)
            content += make_item(tag, RESPONSE, response.SerializeToString())
            expected.items.add(tag=tag, response=response)
        else:
            status = status_pb2.Status(code=3, message="x" * size)
            content += make_item(tag, STATUS, status.SerializeToString())
            expected.items.add(tag=tag, status=status)
    assert wire.PredictManyResponse.FromString(content) == expected

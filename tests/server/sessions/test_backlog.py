"""Items are taken in their order, and what a close seen ahead makes void is not taken at all."""

import random
from typing import Any

import pytest
from tests.server.rpc.served_world import ask, end

from carousel.errors import MessageInvalid
from carousel.rpc.frames import read_item
from carousel.sessions.backlog import Backlog
from carousel.v1 import language_model_pb2 as wire


def frame(*items: wire.PredictManyRequest.Item) -> bytes:
    return wire.PredictManyRequest(items=items).SerializeToString()


def take_all(backlog: Backlog) -> list[tuple[int, int]]:
    """Tags and tokens; a close has token -1."""
    taken = []
    while backlog:
        item: Any = backlog.pop()[0]
        if item is not None:
            taken.append((item.tag, -1 if item.close else item.request.input.tokens.ids[0]))
    return taken


def look(backlog: Backlog, count: int = 1000) -> list[int]:
    """The tags that are closed by the next items."""
    tags = []
    while count and not backlog.is_seen:
        tag, num_bytes = backlog.look_ahead()
        assert num_bytes > 0
        count -= 1
        if tag is not None:
            tags.append(tag)
    return tags


def test_items_come_in_their_order_with_their_sizes() -> None:
    backlog = Backlog(read_item, 10)
    frames = [frame(ask(1, 1), ask(2, 2), end(1)), b"", frame(ask(1, 3))]
    for content in frames:
        backlog.add(content)
    assert backlog.num_bytes == len(b"".join(frames))
    assert sum(backlog.pop()[1] for _ in range(3)) == len(frames[0])
    assert backlog.num_bytes == len(frames[2])
    assert take_all(backlog) == [(1, 3)]
    assert backlog.num_bytes == 0
    assert backlog.is_seen


def test_a_close_seen_ahead_makes_void_what_came_before_it_for_its_tag() -> None:
    """And nothing else: what comes behind it is another sequence's."""
    backlog = Backlog(read_item, 10)
    backlog.add(frame(ask(1, 1), ask(2, 2), ask(1, 3)))
    backlog.add(frame(ask(2, 4), end(1), ask(1, 5), ask(3, 6)))
    assert look(backlog) == [1]
    assert take_all(backlog) == [(2, 2), (2, 4), (1, 5), (3, 6)]
    assert not backlog._closed


def test_of_several_closes_the_last_counts() -> None:
    backlog = Backlog(read_item, 10)
    backlog.add(frame(ask(1, 1), end(1), ask(1, 2)))
    assert look(backlog) == [1]
    backlog.add(frame(end(1), ask(1, 3), end(2)))
    assert look(backlog) == [1, 2]
    assert take_all(backlog) == [(1, 3)]
    assert not backlog._closed


def test_only_what_was_not_taken_is_looked_at() -> None:
    """A close that was taken in its order is not applied again, to whoever has its tag by then."""
    backlog = Backlog(read_item, 10)
    backlog.add(frame(ask(1, 1), end(1), ask(1, 2)))
    for _ in range(3 - 1):
        backlog.pop()
    assert look(backlog) == []
    assert take_all(backlog) == [(1, 2)]


def test_no_more_closes_are_remembered_than_allowed() -> None:
    """The others come in their order."""
    backlog = Backlog(read_item, 2)
    backlog.add(frame(*[end(tag) for tag in (1, 2, 3, 4, 1)], ask(1, 7)))
    assert look(backlog) == [1, 2, 1]
    assert take_all(backlog) == [(3, -1), (4, -1), (1, 7)]


@pytest.mark.parametrize("content", [b"\x0a\x05ab", b"\xff\xff"])
def test_what_is_wrong_stays_the_next_to_be_read(content: bytes) -> None:
    """Whoever takes it and whoever looks ahead both meet it."""
    backlog = Backlog(read_item, 10)
    backlog.add(frame(ask(1, 1)) + content)
    backlog.add(frame(ask(1, 2)))
    backlog.pop()
    for _ in range(2):
        with pytest.raises(MessageInvalid):
            backlog.pop()
        with pytest.raises(MessageInvalid):
            backlog.look_ahead()
    assert backlog.num_bytes


@pytest.mark.parametrize("seed", range(30))
def test_each_tag_is_told_the_same_however_far_is_looked_ahead(seed: int) -> None:
    """Its last sequence has the same questions; of those that were closed some may be left out."""
    dice = random.Random(seed)
    backlog, open_ones, expected = Backlog(read_item, 3), dict[int, list[int]](), dict[int, list[int]]()
    for number in range(300):
        if dice.random() < 0.4:
            tag = dice.randrange(5)
            item = end(tag) if dice.random() < 0.3 else ask(tag, number)
            backlog.add(frame(item))
            if item.close:
                expected.pop(tag, None)
            else:
                expected.setdefault(tag, []).append(number)
        elif dice.random() < 0.3:
            for tag in look(backlog, dice.randrange(4)):
                open_ones.pop(tag, None)
        elif backlog:
            taken: Any = backlog.pop()[0]
            if taken is not None and taken.close:
                open_ones.pop(taken.tag, None)
            elif taken is not None:
                open_ones.setdefault(taken.tag, []).append(taken.request.input.tokens.ids[0])
    for tag, token in take_all(backlog):
        if token < 0:
            open_ones.pop(tag, None)
        else:
            open_ones.setdefault(tag, []).append(token)
    assert open_ones == expected

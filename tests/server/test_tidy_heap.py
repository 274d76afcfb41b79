"""A heap forgets what is out of date without ever going over all of it."""

import random

from carousel.tidy_heap import TidyHeap

Item = tuple[int, int]


def test_the_smallest_comes_first_whatever_was_tidied() -> None:
    """In any order of pushes, pops and tidying, a pop returns the smallest item."""
    heap: TidyHeap[Item] = TidyHeap()
    there: list[Item] = []
    chance = random.Random(7)
    for number in range(5_000):
        if chance.random() < 0.6:
            there.append((chance.randrange(1_000), number))
            heap.push(there[-1])
        elif there:
            assert heap.peek() == min(there)
            assert heap.pop() == min(there)
            there.remove(min(there))
        heap.tidy(0, lambda item: item)
        assert len(heap) == len(there)
    assert repr(heap) == f"TidyHeap({len(there)} items)"


def test_what_is_out_of_date_goes_a_little_at_a_time() -> None:
    """While every second item becomes out of date, there are never many, and no step looks at more than a few."""
    heap: TidyHeap[Item] = TidyHeap()
    for number in range(10_000):
        heap.push((number, number))
    good = set(range(10_000))
    looked_at = 0

    def renew(item: Item) -> Item | None:
        nonlocal looked_at
        looked_at += 1
        return item if item[1] in good else None

    for number in range(0, 10_000, 2):
        good.discard(number)
        looked_at = 0
        heap.tidy(len(good), renew)
        assert looked_at <= 4
        assert len(heap) <= 2 * len(good) + 64
    for number in range(1, 10_000, 2):
        good.discard(number)
        heap.tidy(len(good), renew)
    assert len(heap) <= 64


def test_an_item_is_renewed_in_passing() -> None:
    """The item that `renew` returns takes the old one's place."""
    heap: TidyHeap[Item] = TidyHeap()
    for number in range(100):
        heap.push((number, number))
    for _ in range(100):
        heap.tidy(0, lambda item: (-item[1], item[1]))
    assert heap.peek() == (-99, 99)
    assert len(heap) == 100


def test_nothing_is_tidied_while_there_is_little() -> None:
    """Up to a few more than the good ones may be out of date."""
    heap: TidyHeap[Item] = TidyHeap()
    for number in range(164):
        heap.push((number, number))
    heap.tidy(100, lambda item: None)
    assert len(heap) == 164
    heap.push((0, 0))
    heap.tidy(100, lambda item: None)
    assert len(heap) == 161
    assert TidyHeap[Item]().peek() is None

"""The additions of one round of the event loop are worked on together, and a defect in one of them stays there."""

import asyncio
from collections.abc import Sequence

from carousel.sessions.rounds import Rounds, tell


async def test_what_comes_in_one_round_goes_together() -> None:
    """Later additions do not wait for what runs."""
    seen: list[list[int]] = []
    gate = asyncio.Event()

    async def work(items: Sequence[int]) -> None:
        seen.append(list(items))
        await gate.wait()

    rounds = Rounds(work, "work")
    for number in range(3):
        rounds.add(number)
    assert repr(rounds) == "Rounds(work, 3 to begin, 0 running)"
    for _ in range(3):
        await asyncio.sleep(0)
    rounds.add(3)
    for _ in range(3):
        await asyncio.sleep(0)
    assert seen == [[0, 1, 2], [3]]
    assert repr(rounds) == "Rounds(work, 0 to begin, 2 running)"
    gate.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert repr(rounds) == "Rounds(work, 0 to begin, 0 running)"


async def test_a_defect_is_reported_and_goes_no_further() -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    error = ValueError("ours")

    def fail() -> None:
        raise error

    tell(fail)
    assert reported == [error]

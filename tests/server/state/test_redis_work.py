"""What a store must not leave halfway is finished; what runs beside it ends with it."""

import asyncio

import pytest

from carousel.state.redis_work import RedisWork


async def test_work_goes_on_without_its_caller() -> None:
    """A cancelled caller returns at once; the work is still completed before the store is closed."""
    work, gate, done = RedisWork(), asyncio.Event(), []

    async def write() -> None:
        await gate.wait()
        done.append("written")

    caller = asyncio.create_task(work.finish(write(), "write"))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert done == []
    closing = asyncio.create_task(work.close())
    await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    await closing
    assert done == ["written"]


async def test_what_runs_beside_ends_with_the_store() -> None:
    """Also what never ends by itself."""
    work, ended = RedisWork(), []

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    work.run_beside(run(), "run")
    await asyncio.sleep(0)
    await work.close()
    assert ended == ["ended"]


async def test_a_result_and_an_error_reach_the_caller() -> None:
    """As if he had called himself."""
    work = RedisWork()

    async def fail() -> None:
        raise ValueError("no")

    async def count() -> int:
        return 3

    assert await work.finish(count(), "count") == 3
    with pytest.raises(ValueError, match="no"):
        await work.finish(fail(), "fail")
    await work.close()

"""The sweep ends what is due, asks the store how it is, and survives a store that does not answer."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from carousel.errors import StoreUnavailable
from carousel.metrics import Metrics
from carousel.readiness import StoreHealth
from carousel.sessions import sweep as module
from carousel.sessions.sweep import sweep


class FakeOperations:
    """Seven sessions, of which streams hold three; `raises` is raised where it says."""

    def __init__(self) -> None:
        self.num_held = 3
        self.num_expired = 0
        self.raises: dict[str, Exception] = {}

    async def expire(self) -> None:
        self.num_expired += 1
        if "expire" in self.raises:
            raise self.raises["expire"]

    async def num_live(self) -> int:
        if "num_live" in self.raises:
            raise self.raises["num_live"]
        return 7


class Sweeping:
    """What a sweep needs, without its pauses; it ends after some rounds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_SECONDS", 0.0)
        self.operations = FakeOperations()
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.health = StoreHealth(self.metrics.store_is_up)
        self.seen: list[bool] = []  # whether the store was up after each round

    async def run(self, *raises: dict[str, Exception]) -> None:
        """A round for each entry."""
        rounds = iter(raises[1:])
        self.operations.raises = raises[0]

        async def swept() -> None:
            self.seen.append(self.health.is_up)
            try:
                self.operations.raises = next(rounds)
            except StopIteration:
                raise asyncio.CancelledError from None

        with pytest.raises(asyncio.CancelledError):
            await sweep(self.operations, self.health, self.metrics, swept)  # type: ignore[arg-type]


async def test_what_is_due_ends_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round."""
    sweeping = Sweeping(monkeypatch)
    await sweeping.run({}, {})
    assert sweeping.operations.num_expired == 2
    assert sweeping.registry.get_sample_value("carousel_live_sessions") == 7
    assert sweeping.registry.get_sample_value("carousel_held_sessions") == 3
    assert sweeping.seen == [True, True]


@pytest.mark.parametrize("where", ["expire", "num_live"])
async def test_a_store_that_does_not_answer_is_noted(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Down after the round that failed, up after the next one; the gauge follows."""
    sweeping = Sweeping(monkeypatch)
    await sweeping.run({where: StoreUnavailable("no")}, {})
    assert sweeping.seen == [False, True]
    assert sweeping.registry.get_sample_value("carousel_store_up") == 1


async def test_any_other_error_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs it counts that and begins anew."""
    sweeping = Sweeping(monkeypatch)
    sweeping.operations.raises = {"expire": RuntimeError("no")}
    with pytest.raises(RuntimeError):
        await sweep(sweeping.operations, sweeping.health, sweeping.metrics, asyncio.Event().wait)  # type: ignore[arg-type]

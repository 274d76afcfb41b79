"""Items that fail are each counted and told as calls are; of many there are few log lines, which account for all."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from google.rpc import code_pb2
from prometheus_client import CollectorRegistry
from tests.fakes import FakeClock

from carousel.errors import ModelNotFound
from carousel.metrics import Metrics
from carousel.rpc.predict_messages import ManyMessages
from carousel.sessions.refusals import ItemRefusals
from carousel.v1 import language_model_pb2 as wire

ERROR = ModelNotFound("there is no such model")


class World:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.clock = FakeClock(5.0)
        self.counted: list[bool] = []  # whether a line was wanted
        self.refusals = ItemRefusals("PredictMany", "ipv4:1.2.3.4:5", self._count, Metrics(self.registry), self.clock)

    def _count(self, method: str, error: Exception, is_logged: bool) -> str:
        self.counted.append(is_logged)
        return "NOT_FOUND"

    def refuse(self, count: int) -> None:
        for number in range(count):
            self.refusals.note(wire.PredictRequest(request_id=f"r{number}"), ERROR)
            told = wire.PredictManyResponse.FromString(ManyMessages.write_refusal(number, ERROR))
            assert told.items[0].status.code == code_pb2.NOT_FOUND


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as found:
        yield found


def events(lines: list[Any]) -> list[str]:
    return [line["event"] for line in lines]


def test_a_few_have_a_line_each(lines: list[Any]) -> None:
    """With what a call's line would say, and nothing is added up."""
    world = World()
    world.refuse(10)
    world.refusals.close()
    assert events(lines) == ["item"] * 10
    assert lines[3]["request_id"] == "r3"
    assert (lines[3]["reason"], lines[3]["peer"]) == ("MODEL_NOT_FOUND", "ipv4:1.2.3.4:5")


def test_many_have_a_line_together(lines: list[Any]) -> None:
    """When their second is over and another fails, or at the end; each is counted."""
    world = World()
    world.refuse(25)
    world.clock.now += 0.9
    world.refuse(5)
    assert events(lines) == ["item"] * 10
    world.clock.now += 0.2
    world.refuse(11)
    assert events(lines) == ["item"] * 10 + ["items"] + ["item"] * 10
    assert lines[10]["num_refused"] == 20
    for _ in range(2):
        world.refusals.close()
    assert events(lines)[21:] == ["items"]
    assert lines[-1]["num_refused"] == 1
    assert len(world.counted) == 41
    assert sum(world.counted) == 20
    name, labels = "carousel_refused_items_total", {"method": "PredictMany", "code": "NOT_FOUND"}
    assert world.registry.get_sample_value(name, labels) == 41

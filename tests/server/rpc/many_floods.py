"""What the tests of hostile PredictMany clients share: floods of items, and a gate that notes what passes."""

import asyncio

from tests.server.rpc.served_world import ManyStream

from carousel.sessions.gate import Gate
from carousel.v1 import language_model_pb2 as wire

MAX_A_ROUND = 48  # plain items, or as much other work: a round and a piece
FRAME = 600


async def flood(stream: ManyStream, items: list[wire.PredictManyRequest.Item], num_frames: int) -> None:
    reading = asyncio.create_task(stream.receive(num_frames * len(items)))
    for _ in range(num_frames):
        await stream.send(*items)
    await reading


def long_item(tag: int) -> wire.PredictManyRequest.Item:
    item = wire.PredictManyRequest.Item(tag=tag)
    item.request.input.tokens.ids.extend([1] * 900)
    return item


class OpenGate(Gate):
    """Notes what is charged and lets all in."""

    def __init__(self) -> None:
        super().__init__()
        self.charged: list[float] = []

    async def enter(self, owner: str, cost: float) -> None:
        self.charged.append(cost)

    def charge(self, owner: str, cost: float) -> None:
        self.charged.append(cost)

"""Events decide whether a server has exited, however late its end becomes known."""

import asyncio
import socket
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from trials.fuzz.servers import PLANS, FuzzedServer

from carousel.rpc.health import HealthServicer

pytestmark = pytest.mark.slow

UNTIL_CLOSED = "import sys; sys.stdin.read(); sys.exit(41)"


async def make_server(address: str, directory: Path, patience: float = 30.0) -> FuzzedServer:
    """Its process answers nothing, and ends when its input does."""
    server = FuzzedServer(PLANS[0], (sys.executable,), directory, directory, patience)
    server.grpc_address = address
    pipe = asyncio.subprocess.PIPE
    server._process = await asyncio.create_subprocess_exec(sys.executable, "-c", UNTIL_CLOSED, stdin=pipe)
    return server


async def end(server: FuzzedServer) -> None:
    assert server._process is not None
    assert server._process.stdin is not None
    server._process.stdin.close()
    await server._process.wait()


async def test_an_exit_is_waited_for(tmp_path: Path) -> None:
    """The port is closed by then; the end of the process is known only later."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server = await make_server(f"127.0.0.1:{closed.getsockname()[1]}", tmp_path)
        asking = asyncio.create_task(server.has_exited())
        done, _ = await asyncio.wait([asking], timeout=0.5)
        assert not done
        await end(server)
        assert await asking
        assert server.exit_code == 41


async def test_a_server_that_answers_again_has_not_exited(tmp_path: Path) -> None:
    """A connection broke, and a new one gets an answer."""
    health = HealthServicer(1)
    health.set("", 1)
    alive = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, alive)
    server = await make_server(f"127.0.0.1:{alive.add_insecure_port('127.0.0.1:0')}", tmp_path)
    await alive.start()
    try:
        assert not await server.has_exited()
    finally:
        await end(server)
        await alive.stop(0)


async def test_a_server_that_does_neither_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """It hangs, which other checks find."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        server = await make_server(f"127.0.0.1:{deaf.getsockname()[1]}", tmp_path, patience=0.2)
        assert not await server.has_exited()
        await end(server)

"""The floor under any stream: a grpc.aio server that answers each message with as many bytes as the caller wants.

    python -m bench.harness.echo_server

Prints its address and serves until it is killed.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import grpc
import uvloop


async def _echo(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    answer = bytes(int(dict(context.invocation_metadata())["bytes"]))
    async for _ in requests:
        yield answer


async def _serve() -> None:
    server = grpc.aio.server()
    handlers = {"Echo": grpc.stream_stream_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def echo_process() -> Iterator[tuple[str, int]]:
    """Address and process id of one in a process of its own."""
    command = [sys.executable, "-m", "bench.harness.echo_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.kill()


@contextlib.contextmanager
def echo_server() -> Iterator[str]:
    """The address alone."""
    with echo_process() as (address, _):
        yield address


if __name__ == "__main__":
    uvloop.run(_serve())

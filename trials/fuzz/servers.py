"""The servers that receive the calls: small limits, so that inputs reach them; restarted when they exit."""

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from trials.fuzz.call_inputs import OWNER, OWNER_METADATA
from trials.fuzz.sound_requests import MARKS, POOL
from trials.fuzz.state_inputs import KEY_TEXT

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import language_model_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2

_READY = re.compile(r"serving gRPC on (\S+), HTTP on (\S+) ")
_ANEW = (("grpc.use_local_subchannel_pool", 1),)  # a separate connection
_SMALL = {
    "seal_keys": KEY_TEXT,
    "max_generated_tokens": "256",
    "max_input_tokens": "2048",
    "max_input_bytes": "8192",
    "max_message_bytes": "65536",
    "max_answer_items": "4096",
    "max_stop_ids": "64",
    "penalty_window": "16",
    "max_turns_per_session": "4",
    "retained_request_ids": "8",
    "max_answer_bytes": "500",
    "inspect": "true",
    "log_level": "error",
}


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """Settings beyond the small limits. `has_owners`: a proxy names the callers."""

    name: str
    settings: Callable[[Path], dict[str, str]]
    has_owners: bool


PLANS: Sequence[ServerPlan] = (
    ServerPlan("memory", lambda _: {"max_sessions": "200", "session_idle_seconds": "20"}, False),
    ServerPlan(
        "sqlite",
        lambda directory: {
            "store": f"sqlite:{directory / 'sessions.db'}",
            "seal_replay": "refuse",
            "when_full": "refuse",
            "max_sessions": "150",
            "max_lanes": "4",
            "max_queued_turns": "8",
            "max_streams": "48",
            "owner_metadata": OWNER_METADATA,
            "max_sessions_per_owner": "120",
        },
        True,
    ),
)


class FuzzedServer:
    """One server process after another. `generation` counts the exited ones; `patience`, in seconds, limits the checks
    between inputs."""

    def __init__(
        self, plan: ServerPlan, command: Sequence[str], bundle: Path, directory: Path, patience: float
    ) -> None:
        self.plan = plan
        self.generation = 0
        self._patience = patience
        self.grpc_address = self.http_address = ""
        self.log = directory / "server.log"
        pairs = (_SMALL | plan.settings(directory)).items()
        options = [part for name, value in pairs for part in ("--set", f"{name}={value}")]
        places = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        self._command = [*command, "serve", str(bundle), *places, *options]
        self._process: asyncio.subprocess.Process | None = None
        self._wanted: list[int] | None = None  # the first answer to the valid request
        self._metadata = ((OWNER_METADATA, OWNER),) if plan.has_owners else ()

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode if self._process is not None else None

    async def has_exited(self) -> bool:
        """Call this after a broken connection. Waits until the process has exited, or answers on a new connection.
        Returns False if neither happens within the patience."""
        assert self._process is not None
        events = [asyncio.ensure_future(self._process.wait()), asyncio.ensure_future(self._answer_anew())]
        try:
            await asyncio.wait(events, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
            return self.exit_code is not None
        finally:
            for event in events:
                event.cancel()
            await asyncio.gather(*events, return_exceptions=True)

    async def _answer_anew(self) -> None:
        """Returns when the server answers: a process that is ending answers nothing."""
        async with grpc.aio.insecure_channel(self.grpc_address, _ANEW) as channel:
            request = health_pb2.HealthCheckRequest()
            await health_pb2_grpc.HealthStub(channel).Check(request, wait_for_ready=True)

    async def start(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CAROUSEL_")}
        with self.log.open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=asyncio.subprocess.PIPE, stderr=log, env=environment
            )
        assert self._process.stdout is not None
        line = (await asyncio.wait_for(self._process.stdout.readline(), 60)).decode()
        ready = _READY.match(line)
        if ready is None:
            raise RuntimeError(f"the server did not start, see {self.log}: {line or 'no output'}")
        self.grpc_address, self.http_address = ready[1], ready[2]
        self.channel = grpc.aio.insecure_channel(self.grpc_address)

    async def stop(self) -> None:
        """Stops the server at once: nothing more is needed from it."""
        if self._process is None:
            return
        self.generation += 1
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        if self.grpc_address:
            await self.channel.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def prepare(self) -> str:
        """Makes sure that the pool's sessions exist, with their checkpoints, and few others."""
        return await self._ask(self._prepare)

    async def check(self) -> str:
        """Returns a problem when a valid request no longer gets its first answer; otherwise an empty text."""
        return await self._ask(self._check)

    async def responds(self) -> bool:
        return not await self.check()

    async def _ask(self, question: Callable[[], Awaitable[str]]) -> str:
        for attempt in range(5):
            try:
                async with asyncio.timeout(self._patience):
                    return await question()
            except TimeoutError:
                return "a well-formed request is not answered"
            except grpc.aio.AioRpcError as error:
                trouble = f"a well-formed request is answered {error.code().name}: {error.details()}"
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:  # cancelled calls may still be ending
                    return trouble
            await asyncio.sleep(0.1 * 2**attempt)
        return trouble

    async def _prepare(self) -> str:
        sessions = sessions_pb2_grpc.SessionsStub(self.channel)
        listed = await sessions.ListSessions(sessions_pb2.ListSessionsRequest(page_size=1000), metadata=self._metadata)
        names = {one.session_id for one in listed.sessions}
        for name in names - set(POOL):
            await self._tolerate(sessions.DeleteSession, sessions_pb2.DeleteSessionRequest(session_id=name))
        for name in POOL:
            if name not in names:
                await self._tolerate(sessions.CreateSession, sessions_pb2.CreateSessionRequest(session_id=name))
            for mark in MARKS[: name not in names]:
                request = sessions_pb2.SaveCheckpointRequest(session_id=name, checkpoint=mark)
                await self._tolerate(sessions.SaveCheckpoint, request)
        return ""

    async def _tolerate(self, method: Any, request: Any) -> None:
        """Ignores refusals: calls that were given up may have come first."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            await method(request, metadata=self._metadata)

    async def _check(self) -> str:
        request = wire.GenerateRequest(
            input=types_pb2.Input(tokens=types_pb2.TokenIds(ids=[72, 101, 108])),
            sampling=wire.Sampling(temperature=0.8, seed=5),
            max_tokens=12,
        )
        answers = language_model_pb2_grpc.LanguageModelStub(self.channel).Generate(request, metadata=self._metadata)
        ids = [token.id async for answer in answers for token in answer.tokens]
        self._wanted = self._wanted or ids
        return "" if ids == self._wanted else f"a well-formed request is answered {ids}, at first {self._wanted}"

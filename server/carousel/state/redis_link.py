"""The connection to Redis or Valkey: connections, scripts, timeouts, our own errors. It knows nothing of sessions.

A script does nothing when it runs a second time, so a call whose answer was lost is simply retried.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from carousel.errors import CarouselError, Overloaded, StoreInvalid, StoreUnavailable

_OLDEST = 6
_MAX_CONNECTIONS = 64
_MAX_BATCH = 256
_MAX_PAUSE_SECONDS = 0.25
_OUT_OF_MEMORY = "command not allowed when used memory"  # Redis 6 gives errors in scripts no code
Argument = str | bytes | int | float
_Command = tuple[Argument, ...]


class RedisLink:
    """One server or one cluster; `open` detects which."""

    def __init__(self, url: str, username: str | None, password: str | None, time_out_seconds: float) -> None:
        """`url` is redis://, rediss:// (TLS; with the options of redis-py, such as ?ssl_ca_certs=...) or unix://."""
        try:
            import redis.asyncio
        except ImportError as error:
            raise StoreInvalid("the redis store needs the extra: pip install carousel-serving[redis]") from error
        self._redis: Any = redis
        self._url = url
        self._credentials = {"username": username, "password": password}
        self._time_out_seconds = time_out_seconds
        self._client: Any = None
        self._is_cluster = False
        self._waiting: list[tuple[Sequence[_Command], asyncio.Future[list[Any]]]] = []
        self._sender: asyncio.Task[None] | None = None
        folder = resources.files("carousel.state") / "redis_scripts"
        texts = {file.name: file.read_text() for file in folder.iterdir() if file.name.endswith(".lua")}
        self._scripts = {name.removesuffix(".lua"): (text, _digest(text)) for name, text in texts.items()}
        errors = redis.exceptions
        self._passing = (
            errors.ConnectionError,
            errors.TimeoutError,
            errors.ReadOnlyError,
            errors.ClusterDownError,
            errors.MasterDownError,
            errors.RedisClusterException,
            OSError,
        )

    def __repr__(self) -> str:
        return f"RedisLink({self.address}, {'open' if self._client is not None else 'closed'})"

    @property
    def address(self) -> str:
        """The address without the password."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    async def open(self) -> None:
        """Raises StoreInvalid for a server that refuses us or that we refuse, StoreUnavailable if none answers."""
        errors = self._redis.exceptions
        try:
            self._client = self._connect()
            about = await self.run(lambda client: client.info())
            self._check(about)
            if about.get("redis_mode") == "cluster":
                await self._client.aclose()
                self._client, self._is_cluster = self._connect_cluster(), True
                await self.run(lambda client: client.initialize())
        except BaseException as error:
            await self.close()
            cause = error.__cause__
            if isinstance(error, ValueError) or isinstance(
                cause, errors.AuthenticationError | errors.NoPermissionError
            ):
                raise StoreInvalid(f"{self.address} cannot be used: {cause or error}") from error
            raise

    async def close(self) -> None:
        if self._sender is not None:
            await asyncio.wait([self._sender])
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(*self._passing):
                await client.aclose()

    async def call(
        self, script: str, keys: Sequence[str], arguments: Sequence[Argument], patience_seconds: float = 0.0
    ) -> Any:
        """Makes one round trip. Raises StoreUnavailable; without patience, after the second attempt."""
        text, digest = self._scripts[script]

        async def attempt(_: Any) -> Any:
            try:
                return await self._execute("EVALSHA", digest, len(keys), *keys, *arguments)
            except self._redis.exceptions.NoScriptError:  # unknown to Redis since its restart
                return await self._execute("EVAL", text, len(keys), *keys, *arguments)

        return await self.run(attempt, patience_seconds)

    async def change(
        self, script: str, keys: Sequence[str], arguments: Sequence[Argument], patience_seconds: float
    ) -> Any:
        """Makes a call that changes a session. It is retried while there is patience, and a retry detects whether it
        was carried out before. After that, StoreUnavailable is `in_doubt`."""
        try:
            return await self.call(script, keys, arguments, patience_seconds)
        except StoreUnavailable as error:
            text = f"{error}; it is unknown whether the session was changed"
            raise StoreUnavailable(text, in_doubt="true") from error

    async def change_all(
        self, script: str, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]], patience_seconds: float
    ) -> list[Any]:
        """Makes several independent `change` calls at once, each on its own session. Returns the result of each, or the
        CarouselError that it raises. Calls that fail together are retried alone."""
        _, digest = self._scripts[script]
        commands = [("EVALSHA", digest, len(keys), *keys, *arguments) for keys, arguments in calls]
        outcomes: list[Any] = (
            [ConnectionError()] * len(calls) if self._client is None else await self._execute_all(commands)
        )
        if not any(isinstance(outcome, Exception) for outcome in outcomes):
            return outcomes
        again = (self._repeat(script, *call, patience_seconds, one) for call, one in zip(calls, outcomes, strict=True))
        return await asyncio.gather(*again)

    async def execute(self, *command: Argument) -> Any:
        """Raises StoreUnavailable after the second attempt."""
        return await self.run(lambda _: self._execute(*command))

    async def run(self, attempt: Callable[[Any], Awaitable[Any]], patience_seconds: float = 0.0) -> Any:
        """Raises StoreUnavailable. `attempt` may run several times."""
        errors, end, pause = self._redis.exceptions, time.monotonic() + patience_seconds, 0.01
        num_attempts = 0
        while True:
            if self._client is None:
                raise StoreUnavailable("the session store is closed")
            num_attempts += 1
            try:
                return await attempt(self._client)
            except self._passing as error:
                if num_attempts >= 2 and time.monotonic() >= end:
                    raise StoreUnavailable(f"the session store does not answer: {error}") from error
            except errors.RedisError as error:
                if _OUT_OF_MEMORY in str(error):
                    refusal = "the session store is out of memory"
                    raise Overloaded(refusal, limit="redis_memory", retry_seconds=10.0) from error
                raise StoreUnavailable(f"the session store refuses: {error}") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    async def _repeat(
        self, script: str, keys: Sequence[str], arguments: Sequence[Argument], patience_seconds: float, outcome: Any
    ) -> Any:
        if not isinstance(outcome, Exception):
            return outcome
        try:
            return await self.change(script, keys, arguments, patience_seconds)
        except CarouselError as error:
            return error

    async def _execute(self, *command: Argument) -> Any:
        if self._is_cluster:
            return await self._client.execute_command(*command)
        (outcome,) = await self._execute_all([command])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _execute_all(self, commands: Sequence[_Command]) -> list[Any]:
        """Returns replies or exceptions, in order. Commands of the same moment travel together: one connection carries
        the commands of many turns."""
        if self._is_cluster:
            batches = (commands[first : first + _MAX_BATCH] for first in range(0, len(commands), _MAX_BATCH))
            return [outcome for batch in batches for outcome in await self._exchange(batch)]
        replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((commands, replies))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send(), name="redis-sender")
        return await replies

    async def _send(self) -> None:
        try:
            while self._waiting:
                groups = self._next_groups()
                outcomes = await self._exchange([command for commands, _ in groups for command in commands])
                for commands, replies in groups:
                    found, outcomes = outcomes[: len(commands)], outcomes[len(commands) :]
                    if not replies.done():  # otherwise no caller waits any more
                        replies.set_result(found)
        finally:
            self._sender = None

    def _next_groups(self) -> "list[tuple[Sequence[_Command], asyncio.Future[list[Any]]]]":
        """Returns as many groups as fit into a batch, and at least one."""
        count = num_commands = 0
        for commands, _ in self._waiting:
            num_commands += len(commands)
            if count and num_commands > _MAX_BATCH:
                break
            count += 1
        groups, self._waiting = self._waiting[:count], self._waiting[count:]
        return groups

    async def _exchange(self, commands: Sequence[_Command]) -> list[Any]:
        """Returns replies or exceptions, in order."""
        try:
            async with self._pipeline() as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
                return replies
        except (self._redis.exceptions.RedisError, OSError) as error:
            return [error] * len(commands)
        except Exception as error:  # the library's own, about its connection
            broken = self._redis.exceptions.ConnectionError(f"{type(error).__name__}: {error}")
            return [broken] * len(commands)

    def _pipeline(self) -> Any:
        """A cluster's pipeline sends each machine its part."""
        return self._client.pipeline() if self._is_cluster else self._client.pipeline(transaction=False)

    def _connect(self) -> Any:
        module = self._redis.asyncio
        pool = module.BlockingConnectionPool.from_url(
            self._url, max_connections=_MAX_CONNECTIONS, timeout=self._time_out_seconds, **self._options()
        )
        return module.Redis.from_pool(pool)

    def _connect_cluster(self) -> Any:
        return self._redis.asyncio.RedisCluster.from_url(self._url, max_connections=_MAX_CONNECTIONS, **self._options())

    def _options(self) -> Mapping[str, Any]:
        retry = self._redis.asyncio.retry.Retry(self._redis.backoff.NoBackoff(), 0)  # `run` retries
        given = {name: value for name, value in self._credentials.items() if value}
        times = {"socket_timeout": self._time_out_seconds, "socket_connect_timeout": self._time_out_seconds}
        return {"retry": retry, **times, **given}

    def _check(self, about: Mapping[str, Any]) -> None:
        version = str(about.get("redis_version", "0"))
        if int(version.split(".")[0]) < _OLDEST:
            raise StoreInvalid(f"{self.address} has Redis {version}; it must be {_OLDEST} or newer")
        policy = about.get("maxmemory_policy", "noeviction")
        if int(about.get("maxmemory", 0)) and policy != "noeviction":
            raise StoreInvalid(f"{self.address} has maxmemory-policy {policy}, which drops sessions; set noeviction")


def _digest(script: str) -> str:
    """Returns the script's name in Redis."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()

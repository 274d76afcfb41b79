"""The asyncio client. Make it, use it and close it on one running event loop.

It knows how calls are made and awaited; what they carry is in `calls`.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, Self, TypeVar, Unpack

import grpc
import grpc.aio

from carousel.client import calls
from carousel.client.calls import Call, CallOptions, Connection, GenerateOptions, Metadata, Prompt
from carousel.client.errors import ServerError, ended_early, read_error
from carousel.client.results import ModelInfo, Piece, Prediction, ScorePiece, SessionInfo, Token

Answer = TypeVar("Answer")

_ENDED_BENEATH = "Internal error from Core"  # grpc.aio on a write that meets the stream's end; it hides how it ended


class AsyncStream(Generic[Answer]):
    """Answers as they come. Closing it, or dropping it before its last answer, cancels the call."""

    def __init__(self, call: Any, parse: Callable[[Any], Answer], address: str) -> None:
        self._call = call
        self._parse = parse
        self._address = address

    def __aiter__(self) -> AsyncIterator[Answer]:
        return self

    async def __anext__(self) -> Answer:
        message = await _read(self._call, self._address)
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return self._parse(message)

    async def close(self) -> None:
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()


class AsyncPredictor:
    """Predictions on one sequence, over one stream. Use it as a context manager, which ends the stream."""

    def __init__(self, call: Any, parse: Callable[[Any], Prediction], address: str, where: tuple[str, str]) -> None:
        self._call = call
        self._parse = parse
        self._address = address
        self._where = where  # session id, model
        # Always reading: grpc.aio learns of the stream's end, and of its error, only while it reads.
        self._reading = asyncio.create_task(_read(call, address))

    async def __call__(
        self, prompt: Prompt = "", *, k: int | None = None, word_prefix: str | None = None, num_words: int | None = None
    ) -> Prediction:
        """Feed `prompt` and name what may follow: k tokens, and words that begin with `word_prefix`, which is not fed.

        Raises ServerError; the stream is over then.
        """
        request = calls.predict_request(prompt, *self._where, k=k, word_prefix=word_prefix, num_words=num_words)
        if not self._reading.done():
            await self._write(request)
        message = await self._reading
        if message is grpc.aio.EOF:
            raise ended_early()
        self._reading = asyncio.create_task(_read(self._call, self._address))
        return self._parse(message)

    async def _write(self, request: Any) -> None:
        try:
            await self._call.write(request)
        except asyncio.InvalidStateError:
            pass  # the stream has ended meanwhile, and the reader will say how
        except grpc.RpcError as error:
            if error.details() == _ENDED_BENEATH:
                raise ended_early() from error
            raise read_error(error, self._address) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        if kind is None and not self._reading.done():
            with suppress(asyncio.InvalidStateError, grpc.RpcError):  # what was asked has been answered
                await self._call.done_writing()
                await asyncio.wait([self._reading])
        self._call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


class AsyncClient:
    """A connection to one server, made when first needed. Every call raises ServerError when it fails.

    `timeout_seconds` and `metadata` hold for every call unless a call brings its own. `prompt` is text or token ids.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: Any = None,
        timeout_seconds: float | None = None,
        metadata: Metadata = (),
    ) -> None:
        """`credentials` are grpc.ChannelCredentials; without them the connection is not encrypted."""
        self._connection = Connection(address, timeout_seconds, metadata)
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()  # calls; closing the channel leaves some of them hanging
        self._channel = (
            grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
        )

    def __repr__(self) -> str:
        return f"AsyncClient({self._connection.address!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels the calls that are still open."""
        for call in list(self._open):
            call.cancel()
        await self._channel.close()

    def generate(
        self, prompt: Prompt = "", *, session_id: str = "", model: str = "", **options: Unpack[GenerateOptions]
    ) -> AsyncStream[Piece]:
        """Feed `prompt`, then generate. A session moves on only when the stream is read to its end."""
        wishes, of_call = calls.split_options(options)
        return self._stream(calls.generate(prompt, session_id, model, wishes), of_call)

    def predictor(self, *, session_id: str = "", model: str = "", **options: Unpack[CallOptions]) -> AsyncPredictor:
        """Without a session, the sequence lives as long as the predictor."""
        call = calls.predict(session_id)
        return AsyncPredictor(self._start(call, options), call.parse, self._connection.address, (session_id, model))

    async def predict(
        self,
        prompt: Prompt = "",
        *,
        session_id: str = "",
        model: str = "",
        k: int | None = None,
        word_prefix: str | None = None,
        num_words: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Prediction:
        """Feed `prompt` and name what may follow, as `AsyncPredictor` does, once."""
        async with self.predictor(session_id=session_id, model=model, **options) as predict:
            return await predict(prompt, k=k, word_prefix=word_prefix, num_words=num_words)

    def score(
        self,
        prompt: Prompt,
        *,
        session_id: str = "",
        model: str = "",
        top_g: int | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncStream[ScorePiece]:
        """Rate `prompt` token by token; a token is a hit when it is among the `top_g` likeliest."""
        return self._stream(calls.score(prompt, session_id, model, top_g), options)

    async def tokenize(self, text: str, *, model: str = "", **options: Unpack[CallOptions]) -> tuple[Token, ...]:
        return await self._ask(calls.tokenize(text, model), options)

    async def detokenize(self, ids: Iterable[int], *, model: str = "", **options: Unpack[CallOptions]) -> str:
        return await self._ask(calls.detokenize(ids, model), options)

    async def models(self, **options: Unpack[CallOptions]) -> tuple[ModelInfo, ...]:
        return await self._ask(calls.models(), options)

    async def model(self, name: str = "", **options: Unpack[CallOptions]) -> ModelInfo:
        return await self._ask(calls.model(name), options)

    async def is_serving(self, service: str = "", **options: Unpack[CallOptions]) -> bool:
        """Whether the server says that it is ready for calls."""
        return await self._ask(calls.health(service), options)

    async def create_session(
        self, session_id: str = "", *, model: str = "", **options: Unpack[CallOptions]
    ) -> SessionInfo:
        """Without an id, the server makes one that nobody can guess."""
        return await self._ask(calls.create_session(session_id, model), options)

    async def get_session(self, session_id: str, **options: Unpack[CallOptions]) -> SessionInfo:
        return await self._ask(calls.get_session(session_id), options)

    async def list_sessions(self, **options: Unpack[CallOptions]) -> AsyncIterator[SessionInfo]:
        """Oldest first; pages are fetched as they are needed."""
        page_token = ""
        while True:
            page, page_token = await self._ask(calls.list_sessions(page_token), options)
            for session in page:
                yield session
            if not page_token:
                return

    async def delete_session(self, session_id: str, **options: Unpack[CallOptions]) -> None:
        await self._ask(calls.delete_session(session_id), options)

    @asynccontextmanager
    async def session(
        self, session_id: str = "", *, model: str = "", keep: bool = False
    ) -> AsyncIterator["AsyncSession"]:
        """A new session, deleted at the end unless `keep`."""
        session = AsyncSession(self, (await self.create_session(session_id, model=model)).session_id)
        try:
            yield session
        finally:
            if not keep:
                with suppress(ServerError):  # gone already, or it will expire
                    await session.delete()

    async def _ask(self, call: Call[Answer], options: CallOptions) -> Answer:
        try:
            return call.parse(await self._start(call, options))
        except grpc.RpcError as error:
            raise read_error(error, self._connection.address) from error

    def _stream(self, call: Call[Answer], options: CallOptions) -> AsyncStream[Answer]:
        return AsyncStream(self._start(call, options), call.parse, self._connection.address)

    def _start(self, call: Call[Any], options: CallOptions) -> Any:
        method = getattr(call.stub(self._channel), call.method)
        request = () if call.request is None else (call.request,)
        started = method(*request, **self._connection.arguments(call, options))
        self._open.add(started)
        return started


class AsyncSession:
    """One conversation: every call continues where the last one ended. It need not have been made by this client."""

    def __init__(self, client: AsyncClient, session_id: str) -> None:
        self._client = client
        self.session_id = session_id

    def __repr__(self) -> str:
        return f"AsyncSession({self.session_id!r})"

    async def feed(self, prompt: Prompt, **options: Unpack[CallOptions]) -> int:
        """Let the model read `prompt`. Returns the new position."""
        finished = None
        async for piece in self._client.generate(prompt, session_id=self.session_id, max_tokens=0, **options):
            finished = piece.finished
        if finished is None:
            raise ended_early()
        return finished.position

    def generate(self, prompt: Prompt = "", **options: Unpack[GenerateOptions]) -> AsyncStream[Piece]:
        """As in `AsyncClient`; the session moves on only when the stream is read to its end."""
        return self._client.generate(prompt, session_id=self.session_id, **options)

    def predictor(self, **options: Unpack[CallOptions]) -> AsyncPredictor:
        return self._client.predictor(session_id=self.session_id, **options)

    async def predict(
        self,
        prompt: Prompt = "",
        *,
        k: int | None = None,
        word_prefix: str | None = None,
        num_words: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Prediction:
        async with self.predictor(**options) as predict:
            return await predict(prompt, k=k, word_prefix=word_prefix, num_words=num_words)

    def score(
        self, prompt: Prompt, *, top_g: int | None = None, **options: Unpack[CallOptions]
    ) -> AsyncStream[ScorePiece]:
        return self._client.score(prompt, session_id=self.session_id, top_g=top_g, **options)

    async def get(self, **options: Unpack[CallOptions]) -> SessionInfo:
        return await self._client.get_session(self.session_id, **options)

    async def delete(self, **options: Unpack[CallOptions]) -> None:
        await self._client.delete_session(self.session_id, **options)


async def _read(call: Any, address: str) -> Any:
    """The stream's next message, or grpc.aio.EOF."""
    try:
        return await call.read()
    except grpc.RpcError as error:
        raise read_error(error, address) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ServerError("the call was cancelled", code="CANCELLED") from None  # the call was, not its reader

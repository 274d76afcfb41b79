"""The client of one server: the calls it offers. `transport` makes them, `core/calls.py` defines their content."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Self, Unpack

from carousel.client._async.predictor import AsyncPredictor
from carousel.client._async.session import AsyncSession
from carousel.client._async.streams import AsyncStream
from carousel.client._async.transport import Transport
from carousel.client.core import calls, session_calls
from carousel.client.core.connection import Connection
from carousel.client.core.errors import ServerError
from carousel.client.core.options import (
    CallOptions,
    ChangeOptions,
    GenerateOptions,
    Metadata,
    PredictFields,
    PredictOptions,
    Prompt,
    TurnOptions,
    split_options,
)
from carousel.client.core.results import (
    History,
    Inspected,
    ModelInfo,
    Piece,
    Prediction,
    ScorePiece,
    SessionEvent,
    SessionInfo,
    Token,
)
from carousel.client.core.retries import Retries
from carousel.client.core.tls import Tls, choose_credentials
from carousel.client.core.token import bearer
from carousel.client.wires.aio import GrpcWire, Sleep, WireOptions, sleep


class AsyncClient:
    """A connection to one server, opened on first use. Every call raises ServerError when it fails.

    `timeout_seconds` and `metadata` apply to every call unless a call sets its own. `prompt` is text or token ids.
    Calls that create, move and end sessions carry request ids, and the client retries them as `retries` says. The same
    holds for all calls of a session, and for a prediction that the server refuses for load. All other calls here are
    made once.

    AsyncClient: create, use and close it on one running event loop. Client: any number of threads may share one; a
    stream or a predictor belongs to one thread at a time.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: bool | Tls | None = None,
        credentials: Any = None,
        token: str | None = None,
        plaintext_token: bool = False,
        timeout_seconds: float | None = None,
        metadata: Metadata = (),
        retries: Retries | None = None,
        connections: int = 1,
        sleep: Sleep = sleep,
        **of_wire: Unpack[WireOptions],
    ) -> None:
        """`tls` says which servers to trust and which certificate to show; without it the connection is not encrypted.
        `credentials` are grpc.ChannelCredentials of any kind, instead of `tls`. `token` tells the server who calls. It
        leaves this machine unencrypted only with `plaintext_token`; otherwise that raises ValueError. `connections` is
        for a server with several workers, which get connections, not calls: some for each worker. The calls of a
        session keep to one of them. `of_wire` holds the options that only this kind of client has; `WireOptions` lists
        them."""
        self._address = address
        chosen = choose_credentials(credentials, tls)
        carried = bearer(token, address, is_encrypted=chosen is not None, plaintext=plaintext_token)
        connection = Connection(address, chosen, timeout_seconds, (*metadata, *carried), connections)
        self._transport = Transport(GrpcWire(connection, **of_wire), connection, retries or Retries(), sleep)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels the open calls. Later calls, and retries of earlier ones, fail with CANCELLED."""
        await self._transport.close()

    def generate(
        self, prompt: Prompt = "", *, session_id: str = "", model: str = "", **options: Unpack[GenerateOptions]
    ) -> AsyncStream[Piece]:
        """Feeds `prompt`, then generates. A session moves on only when the caller reads the stream to its end."""
        turn_options, of_call = split_options(options, GenerateOptions)
        return self._transport.stream(calls.generate(prompt, session_id, model, turn_options), of_call)

    def predictor(self, *, session_id: str = "", model: str = "", **options: Unpack[CallOptions]) -> AsyncPredictor:
        """Returns a predictor. Without a session, its sequence lives as long as the predictor."""
        call = calls.predict(session_id)
        repeat = self._transport.repeat(options)
        return AsyncPredictor(repeat, lambda left: self._transport.line(call, left), call.parse, (session_id, model))

    async def predict(
        self, prompt: Prompt = "", *, session_id: str = "", model: str = "", **options: Unpack[PredictOptions]
    ) -> Prediction:
        """Feeds `prompt` and returns the likeliest continuations, as a predictor does, once."""
        turn_options, of_call = split_options(options, PredictOptions)
        async with self.predictor(session_id=session_id, model=model, **of_call) as predict:
            return await predict(prompt, **PredictFields(**turn_options))  # type: ignore[typeddict-item]

    def score(
        self,
        prompt: Prompt,
        *,
        session_id: str = "",
        model: str = "",
        top_g: int | None = None,
        **options: Unpack[TurnOptions],
    ) -> AsyncStream[ScorePiece]:
        """Scores `prompt` token by token; a token is a hit when it is among the `top_g` likeliest."""
        turn_options, of_call = split_options(options, TurnOptions)
        return self._transport.stream(calls.score(prompt, session_id, model, top_g, turn_options), of_call)

    async def tokenize(self, text: str, *, model: str = "", **options: Unpack[CallOptions]) -> tuple[Token, ...]:
        return await self._transport.ask(calls.tokenize(text, model), options)

    async def detokenize(self, ids: Iterable[int], *, model: str = "", **options: Unpack[CallOptions]) -> str:
        return await self._transport.ask(calls.detokenize(ids, model), options)

    async def models(self, **options: Unpack[CallOptions]) -> tuple[ModelInfo, ...]:
        return await self._transport.ask(calls.models(), options)

    async def model(self, name: str = "", **options: Unpack[CallOptions]) -> ModelInfo:
        return await self._transport.ask(calls.model(name), options)

    async def is_serving(self, service: str = "", **options: Unpack[CallOptions]) -> bool:
        """Returns whether the server reports that it is ready for calls."""
        return await self._transport.ask(calls.health(service), options)

    async def create_session(
        self, session_id: str = "", *, model: str = "", **options: Unpack[ChangeOptions]
    ) -> SessionInfo:
        """Creates a session. Without an id, the server chooses one that cannot be guessed."""
        change_options, of_call = split_options(options, ChangeOptions)
        return await self._transport.ask_safely(
            session_calls.create_session(session_id, model, change_options), of_call
        )

    async def get_session(self, session_id: str, **options: Unpack[CallOptions]) -> SessionInfo:
        return await self._transport.ask(session_calls.get_session(session_id), options)

    async def list_sessions(self, **options: Unpack[CallOptions]) -> AsyncIterator[SessionInfo]:
        """Yields the sessions, oldest first; fetches pages as they are needed."""
        page_token = ""
        while True:
            page, page_token = await self._transport.ask(session_calls.list_sessions(page_token), options)
            for session in page:
                yield session
            if not page_token:
                return

    async def delete_session(self, session_id: str, **options: Unpack[ChangeOptions]) -> None:
        change_options, of_call = split_options(options, ChangeOptions)
        await self._transport.ask_safely(session_calls.delete_session(session_id, change_options), of_call)

    async def fork_session(
        self,
        session_id: str,
        count: int | None = None,
        *,
        position: int | None = None,
        checkpoint: str = "",
        new_ids: Sequence[str] = (),
        **options: Unpack[ChangeOptions],
    ) -> list[SessionInfo]:
        """Creates sessions that start where this session is now, or where it was at a position or checkpoint."""
        change_options, of_call = split_options(options, ChangeOptions)
        call = session_calls.fork_session(session_id, position, checkpoint, count, new_ids, change_options)
        return await self._transport.ask_safely(call, of_call)

    async def rewind_session(
        self,
        session_id: str,
        *,
        position: int | None = None,
        checkpoint: str = "",
        expected_position: int | None = None,
        **options: Unpack[ChangeOptions],
    ) -> SessionInfo:
        """Moves the session back; everything after that point is lost."""
        change_options, of_call = split_options(options, ChangeOptions)
        call = session_calls.rewind_session(session_id, position, checkpoint, expected_position, change_options)
        return await self._transport.ask_safely(call, of_call)

    async def save_checkpoint(self, session_id: str, name: str, **options: Unpack[ChangeOptions]) -> SessionInfo:
        change_options, of_call = split_options(options, ChangeOptions)
        return await self._transport.ask_safely(
            session_calls.save_checkpoint(session_id, name, change_options), of_call
        )

    async def get_history(self, session_id: str, **options: Unpack[CallOptions]) -> History:
        return await self._transport.ask(session_calls.get_history(session_id), options)

    async def export_session(
        self,
        session_id: str,
        ttl: timedelta | None = None,
        *,
        position: int | None = None,
        checkpoint: str = "",
        **options: Unpack[CallOptions],
    ) -> bytes:
        """Returns the state, sealed for this caller, this model and servers with the same keys. It is valid for `ttl`
        (default: a day)."""
        return await self._transport.ask(session_calls.export_session(session_id, ttl, position, checkpoint), options)

    async def import_session(self, state: bytes, session_id: str = "", **options: Unpack[ChangeOptions]) -> SessionInfo:
        """Creates a session from a sealed state."""
        change_options, of_call = split_options(options, ChangeOptions)
        return await self._transport.ask_safely(
            session_calls.import_session(state, session_id, change_options), of_call
        )

    def inspect(
        self,
        prompt: Prompt = "",
        *,
        session_id: str = "",
        model: str = "",
        position: int | None = None,
        checkpoint: str = "",
        tensors: Sequence[str] = (),
        num_candidates: int | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncStream[Inspected]:
        """Reads `prompt` on a copy of the session, as it is or was, or of the model's start. Streams the state where
        the reading starts, then after each token: of all `tensors` or of those named. The session does not change. The
        server must allow it (`inspect`)."""
        call = session_calls.inspect_session(prompt, session_id, model, position, checkpoint, tensors, num_candidates)
        return self._transport.stream(call, options)

    async def watch(self, **options: Unpack[CallOptions]) -> AsyncStream[SessionEvent]:
        """Streams the events of the caller's sessions from now on. Returns when the server is listening for them."""
        return await self._transport.stream(session_calls.watch_sessions(), options).wait_until_open()

    @asynccontextmanager
    async def session(
        self, session_id: str = "", *, model: str = "", keep: bool = False, **options: Unpack[ChangeOptions]
    ) -> AsyncIterator[AsyncSession]:
        """Creates a session and deletes it at the end unless `keep`. The options apply to its creation."""
        made = await self.create_session(session_id, model=model, **options)
        session = self.open_session(made.session_id, position=made.position)
        try:
            yield session
        finally:
            if not keep:
                with suppress(ServerError):  # already gone, or it will expire
                    await session.delete()

    def open_session(self, session_id: str, *, position: int | None = None) -> AsyncSession:
        """Returns a session that exists already, without a call to the server. `position` is its position, if known;
        otherwise its first answer brings it."""
        return AsyncSession(self._transport, session_id, position=position)

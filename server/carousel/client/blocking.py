"""The blocking client. Any number of threads may share one; a stream or a predictor belongs to one thread at a time.

It says which calls there are; how they are made is in `blocking_transport`, what they carry in `calls`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Self, Unpack

import grpc

from carousel.client import calls, session_calls
from carousel.client.blocking_predictor import Predictor
from carousel.client.blocking_session import Session
from carousel.client.blocking_transport import Stream, Transport
from carousel.client.calls import CHANNEL_OPTIONS, Connection
from carousel.client.errors import ServerError
from carousel.client.options import (
    CallOptions,
    ChangeOptions,
    GenerateOptions,
    Metadata,
    PredictOptions,
    PredictWishes,
    Prompt,
    TurnOptions,
    split_options,
)
from carousel.client.results import (
    History,
    ModelInfo,
    Piece,
    Prediction,
    ScorePiece,
    SessionEvent,
    SessionInfo,
    Token,
)
from carousel.client.retries import Retries


class Client:
    """A connection to one server, made when first needed. Every call raises ServerError when it fails.

    `timeout_seconds` and `metadata` hold for every call unless a call brings its own. `prompt` is text or token ids.
    The calls here are made once, but for those that make, move and end sessions: these carry ids and, like all those of
    a `Session`, are repeated as `retries` say.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: Any = None,
        timeout_seconds: float | None = None,
        metadata: Metadata = (),
        retries: Retries | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`credentials` are grpc.ChannelCredentials; without them the connection is not encrypted."""
        self._address = address
        channel = (
            grpc.secure_channel(address, credentials, CHANNEL_OPTIONS)
            if credentials
            else grpc.insecure_channel(address, CHANNEL_OPTIONS)
        )
        connection = Connection(address, timeout_seconds, metadata)
        self.transport = Transport(channel, connection, retries or Retries(), sleep)

    def __repr__(self) -> str:
        return f"Client({self._address!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels the calls that are still open."""
        self.transport.close()

    def generate(
        self, prompt: Prompt = "", *, session_id: str = "", model: str = "", **options: Unpack[GenerateOptions]
    ) -> Stream[Piece]:
        """Feed `prompt`, then generate. A session moves on only when the stream is read to its end."""
        wishes, of_call = split_options(options, GenerateOptions)
        return self.transport.stream(calls.generate(prompt, session_id, model, wishes), of_call)

    def predictor(self, *, session_id: str = "", model: str = "", **options: Unpack[CallOptions]) -> Predictor:
        """Without a session, the sequence lives as long as the predictor."""
        call = calls.predict(session_id)
        return Predictor(lambda requests: self.transport.stream(call, options, requests), session_id, model)

    def predict(
        self, prompt: Prompt = "", *, session_id: str = "", model: str = "", **options: Unpack[PredictOptions]
    ) -> Prediction:
        """Feed `prompt` and name what may follow, as `Predictor` does, once."""
        wishes, of_call = split_options(options, PredictOptions)
        with self.predictor(session_id=session_id, model=model, **of_call) as predict:
            return predict(prompt, **PredictWishes(**wishes))  # type: ignore[typeddict-item]

    def score(
        self,
        prompt: Prompt,
        *,
        session_id: str = "",
        model: str = "",
        top_g: int | None = None,
        **options: Unpack[TurnOptions],
    ) -> Stream[ScorePiece]:
        """Rate `prompt` token by token; a token is a hit when it is among the `top_g` likeliest."""
        wishes, of_call = split_options(options, TurnOptions)
        return self.transport.stream(calls.score(prompt, session_id, model, top_g, wishes), of_call)

    def tokenize(self, text: str, *, model: str = "", **options: Unpack[CallOptions]) -> tuple[Token, ...]:
        return self.transport.ask(calls.tokenize(text, model), options)

    def detokenize(self, ids: Iterable[int], *, model: str = "", **options: Unpack[CallOptions]) -> str:
        return self.transport.ask(calls.detokenize(ids, model), options)

    def models(self, **options: Unpack[CallOptions]) -> tuple[ModelInfo, ...]:
        return self.transport.ask(calls.models(), options)

    def model(self, name: str = "", **options: Unpack[CallOptions]) -> ModelInfo:
        return self.transport.ask(calls.model(name), options)

    def is_serving(self, service: str = "", **options: Unpack[CallOptions]) -> bool:
        """Whether the server says that it is ready for calls."""
        return self.transport.ask(calls.health(service), options)

    def create_session(self, session_id: str = "", *, model: str = "", **options: Unpack[ChangeOptions]) -> SessionInfo:
        """Without an id, the server makes one that nobody can guess."""
        wishes, of_call = split_options(options, ChangeOptions)
        return self.transport.ask_safely(session_calls.create_session(session_id, model, wishes), of_call)

    def get_session(self, session_id: str, **options: Unpack[CallOptions]) -> SessionInfo:
        return self.transport.ask(session_calls.get_session(session_id), options)

    def list_sessions(self, **options: Unpack[CallOptions]) -> Iterator[SessionInfo]:
        """Oldest first; pages are fetched as they are needed."""
        page_token = ""
        while True:
            page, page_token = self.transport.ask(session_calls.list_sessions(page_token), options)
            yield from page
            if not page_token:
                return

    def delete_session(self, session_id: str, **options: Unpack[ChangeOptions]) -> None:
        wishes, of_call = split_options(options, ChangeOptions)
        self.transport.ask_safely(session_calls.delete_session(session_id, wishes), of_call)

    def fork_session(
        self,
        session_id: str,
        count: int | None = None,
        *,
        position: int | None = None,
        checkpoint: str = "",
        new_ids: Sequence[str] = (),
        **options: Unpack[ChangeOptions],
    ) -> list[SessionInfo]:
        """New sessions that stand where this one stands or, at a position or checkpoint, stood."""
        wishes, of_call = split_options(options, ChangeOptions)
        call = session_calls.fork_session(session_id, position, checkpoint, count, new_ids, wishes)
        return self.transport.ask_safely(call, of_call)

    def rewind_session(
        self,
        session_id: str,
        *,
        position: int | None = None,
        checkpoint: str = "",
        expected_position: int | None = None,
        **options: Unpack[ChangeOptions],
    ) -> SessionInfo:
        """Go back; what came after is forgotten."""
        wishes, of_call = split_options(options, ChangeOptions)
        call = session_calls.rewind_session(session_id, position, checkpoint, expected_position, wishes)
        return self.transport.ask_safely(call, of_call)

    def save_checkpoint(self, session_id: str, name: str, **options: Unpack[ChangeOptions]) -> SessionInfo:
        wishes, of_call = split_options(options, ChangeOptions)
        return self.transport.ask_safely(session_calls.save_checkpoint(session_id, name, wishes), of_call)

    def get_history(self, session_id: str, **options: Unpack[CallOptions]) -> History:
        return self.transport.ask(session_calls.get_history(session_id), options)

    def export_session(
        self,
        session_id: str,
        ttl: timedelta | None = None,
        *,
        position: int | None = None,
        checkpoint: str = "",
        **options: Unpack[CallOptions],
    ) -> bytes:
        """The state, sealed for this caller, this model and servers with the same keys, and good for `ttl` (a day)."""
        return self.transport.ask(session_calls.export_session(session_id, ttl, position, checkpoint), options)

    def import_session(self, state: bytes, session_id: str = "", **options: Unpack[ChangeOptions]) -> SessionInfo:
        """A new session from a sealed state."""
        wishes, of_call = split_options(options, ChangeOptions)
        return self.transport.ask_safely(session_calls.import_session(state, session_id, wishes), of_call)

    def watch(self, **options: Unpack[CallOptions]) -> Stream[SessionEvent]:
        """What happens to the caller's sessions from now on; waits until the server is listening to them."""
        return self.transport.stream(session_calls.watch_sessions(), options).wait_until_open()

    @contextmanager
    def session(
        self, session_id: str = "", *, model: str = "", keep: bool = False, **options: Unpack[ChangeOptions]
    ) -> Iterator[Session]:
        """A new session, deleted at the end unless `keep`. The options are its creation's."""
        made = self.create_session(session_id, model=model, **options)
        session = Session(self, made.session_id, position=made.position)
        try:
            yield session
        finally:
            if not keep:
                with suppress(ServerError):  # gone already, or it will expire
                    session.delete()

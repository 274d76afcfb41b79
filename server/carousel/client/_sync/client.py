# Generated from server/carousel/client/_async/client.py by `make client`: change that file, not this one.
"""A client of one server: which calls there are. `transport` makes them, `core/calls.py` says what they carry."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Self, Unpack

from carousel.client._sync.predictor import Predictor
from carousel.client._sync.session import Session
from carousel.client._sync.streams import Stream
from carousel.client._sync.transport import Transport
from carousel.client.core import calls, session_calls
from carousel.client.core.connection import Connection
from carousel.client.core.errors import ServerError
from carousel.client.core.options import (
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
from carousel.client.core.results import (
    History,
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
from carousel.client.wires.blocking import GrpcWire, Sleep, WireOptions, sleep


class Client:
    """A connection to one server, made when first needed. Every call raises ServerError when it fails.

    `timeout_seconds` and `metadata` hold for every call unless a call brings its own. `prompt` is text or token ids.
    The calls here are made once, but for those that make, move and end sessions: these carry ids and, like all those of
    a session, are repeated as `retries` say. So is a prediction that the server had no time for.

    For asyncio: make it, use it and close it on one running event loop. Of the blocking kind, any number of threads may
    share one; a stream or a predictor belongs to one thread at a time.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: bool | Tls | None = None,
        credentials: Any = None,
        timeout_seconds: float | None = None,
        metadata: Metadata = (),
        retries: Retries | None = None,
        sleep: Sleep = sleep,
        **of_wire: Unpack[WireOptions],
    ) -> None:
        """Without `tls` the connection is not encrypted; `Tls` says which servers to trust and which certificate to
        show. Instead of it, `credentials` are grpc.ChannelCredentials of any kind. `of_wire` is what
        this kind of client alone can be told: `WireOptions` says what."""
        self._address = address
        connection = Connection(address, choose_credentials(credentials, tls), timeout_seconds, metadata)
        self._transport = Transport(GrpcWire(connection, **of_wire), connection, retries or Retries(), sleep)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels the calls that are still open. Those made later, and repeats of earlier ones, are refused as
        CANCELLED."""
        self._transport.close()

    def generate(
        self, prompt: Prompt = "", *, session_id: str = "", model: str = "", **options: Unpack[GenerateOptions]
    ) -> Stream[Piece]:
        """Feed `prompt`, then generate. A session moves on only when the stream is read to its end."""
        wishes, of_call = split_options(options, GenerateOptions)
        return self._transport.stream(calls.generate(prompt, session_id, model, wishes), of_call)

    def predictor(self, *, session_id: str = "", model: str = "", **options: Unpack[CallOptions]) -> Predictor:
        """Without a session, the sequence lives as long as the predictor."""
        call = calls.predict(session_id)
        repeat = self._transport.repeat(options)
        return Predictor(repeat, lambda left: self._transport.line(call, left), call.parse, (session_id, model))

    def predict(
        self, prompt: Prompt = "", *, session_id: str = "", model: str = "", **options: Unpack[PredictOptions]
    ) -> Prediction:
        """Feed `prompt` and name what may follow, as a predictor does, once."""
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
        return self._transport.stream(calls.score(prompt, session_id, model, top_g, wishes), of_call)

    def tokenize(self, text: str, *, model: str = "", **options: Unpack[CallOptions]) -> tuple[Token, ...]:
        return self._transport.ask(calls.tokenize(text, model), options)

    def detokenize(self, ids: Iterable[int], *, model: str = "", **options: Unpack[CallOptions]) -> str:
        return self._transport.ask(calls.detokenize(ids, model), options)

    def models(self, **options: Unpack[CallOptions]) -> tuple[ModelInfo, ...]:
        return self._transport.ask(calls.models(), options)

    def model(self, name: str = "", **options: Unpack[CallOptions]) -> ModelInfo:
        return self._transport.ask(calls.model(name), options)

    def is_serving(self, service: str = "", **options: Unpack[CallOptions]) -> bool:
        """Whether the server says that it is ready for calls."""
        return self._transport.ask(calls.health(service), options)

    def create_session(self, session_id: str = "", *, model: str = "", **options: Unpack[ChangeOptions]) -> SessionInfo:
        """Without an id, the server makes one that nobody can guess."""
        wishes, of_call = split_options(options, ChangeOptions)
        return self._transport.ask_safely(session_calls.create_session(session_id, model, wishes), of_call)

    def get_session(self, session_id: str, **options: Unpack[CallOptions]) -> SessionInfo:
        return self._transport.ask(session_calls.get_session(session_id), options)

    def list_sessions(self, **options: Unpack[CallOptions]) -> Iterator[SessionInfo]:
        """Oldest first; pages are fetched as they are needed."""
        page_token = ""
        while True:
            page, page_token = self._transport.ask(session_calls.list_sessions(page_token), options)
            for session in page:
                yield session
            if not page_token:
                return

    def delete_session(self, session_id: str, **options: Unpack[ChangeOptions]) -> None:
        wishes, of_call = split_options(options, ChangeOptions)
        self._transport.ask_safely(session_calls.delete_session(session_id, wishes), of_call)

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
        return self._transport.ask_safely(call, of_call)

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
        return self._transport.ask_safely(call, of_call)

    def save_checkpoint(self, session_id: str, name: str, **options: Unpack[ChangeOptions]) -> SessionInfo:
        wishes, of_call = split_options(options, ChangeOptions)
        return self._transport.ask_safely(session_calls.save_checkpoint(session_id, name, wishes), of_call)

    def get_history(self, session_id: str, **options: Unpack[CallOptions]) -> History:
        return self._transport.ask(session_calls.get_history(session_id), options)

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
        return self._transport.ask(session_calls.export_session(session_id, ttl, position, checkpoint), options)

    def import_session(self, state: bytes, session_id: str = "", **options: Unpack[ChangeOptions]) -> SessionInfo:
        """A new session from a sealed state."""
        wishes, of_call = split_options(options, ChangeOptions)
        return self._transport.ask_safely(session_calls.import_session(state, session_id, wishes), of_call)

    def watch(self, **options: Unpack[CallOptions]) -> Stream[SessionEvent]:
        """What happens to the caller's sessions from now on; waits until the server is listening to them."""
        return self._transport.stream(session_calls.watch_sessions(), options).wait_until_open()

    @contextmanager
    def session(
        self, session_id: str = "", *, model: str = "", keep: bool = False, **options: Unpack[ChangeOptions]
    ) -> Iterator[Session]:
        """A new session, deleted at the end unless `keep`. The options are its creation's."""
        made = self.create_session(session_id, model=model, **options)
        session = self.open_session(made.session_id, position=made.position)
        try:
            yield session
        finally:
            if not keep:
                with suppress(ServerError):  # gone already, or it will expire
                    session.delete()

    def open_session(self, session_id: str, *, position: int | None = None) -> Session:
        """One that is there already, whoever made it; asks nobody. `position` is where it stands, if that is known;
        otherwise its first answer tells."""
        return Session(self._transport, session_id, position=position)

"""The blocking client. Any number of threads may share one; a stream or a predictor belongs to one thread at a time.

It knows how calls are made and awaited; what they carry is in `calls`.
"""

import queue
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, Self, TypeVar, Unpack

import grpc

from carousel.client import calls
from carousel.client.calls import Call, CallOptions, Connection, GenerateOptions, Metadata, Prompt
from carousel.client.errors import ServerError, ended_early, read_error
from carousel.client.results import ModelInfo, Piece, Prediction, ScorePiece, SessionInfo, Token

Answer = TypeVar("Answer")


class Stream(Generic[Answer]):
    """Answers as they come. Closing it, or dropping it before its last answer, cancels the call."""

    def __init__(self, call: Any, parse: Callable[[Any], Answer], address: str) -> None:
        self._call = call
        self._parse = parse
        self._address = address

    def __iter__(self) -> Iterator[Answer]:
        return self

    def __next__(self) -> Answer:
        try:
            message = next(self._call)
        except grpc.RpcError as error:
            raise read_error(error, self._address) from error
        except KeyboardInterrupt:
            self._call.cancel()
            raise
        return self._parse(message)

    def close(self) -> None:
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class Predictor:
    """Predictions on one sequence, over one stream. Use it as a context manager, which ends the stream."""

    def __init__(
        self, start: Callable[[Iterator[Any]], Stream[Prediction]], session_id: str = "", model: str = ""
    ) -> None:
        self._where = (session_id, model)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stream = start(iter(self._requests.get, None))

    def __call__(
        self, prompt: Prompt = "", *, k: int | None = None, word_prefix: str | None = None, num_words: int | None = None
    ) -> Prediction:
        """Feed `prompt` and name what may follow: k tokens, and words that begin with `word_prefix`, which is not fed.

        Raises ServerError; the stream is over then.
        """
        request = calls.predict_request(prompt, *self._where, k=k, word_prefix=word_prefix, num_words=num_words)
        self._requests.put(request)
        prediction = next(self._stream, None)
        if prediction is None:
            raise ended_early()
        return prediction

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        self._requests.put(None)
        if kind is None:
            next(self._stream, None)  # the server's end of the stream
        self._stream.close()


class Client:
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
        self._channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)

    def __repr__(self) -> str:
        return f"Client({self._connection.address!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels the calls that are still open."""
        self._channel.close()

    def generate(
        self, prompt: Prompt = "", *, session_id: str = "", model: str = "", **options: Unpack[GenerateOptions]
    ) -> Stream[Piece]:
        """Feed `prompt`, then generate. A session moves on only when the stream is read to its end."""
        wishes, of_call = calls.split_options(options)
        return self._stream(calls.generate(prompt, session_id, model, wishes), of_call)

    def predictor(self, *, session_id: str = "", model: str = "", **options: Unpack[CallOptions]) -> Predictor:
        """Without a session, the sequence lives as long as the predictor."""
        call = calls.predict(session_id)
        return Predictor(lambda requests: self._stream(call, options, requests), session_id, model)

    def predict(
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
        """Feed `prompt` and name what may follow, as `Predictor` does, once."""
        with self.predictor(session_id=session_id, model=model, **options) as predict:
            return predict(prompt, k=k, word_prefix=word_prefix, num_words=num_words)

    def score(
        self,
        prompt: Prompt,
        *,
        session_id: str = "",
        model: str = "",
        top_g: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Stream[ScorePiece]:
        """Rate `prompt` token by token; a token is a hit when it is among the `top_g` likeliest."""
        return self._stream(calls.score(prompt, session_id, model, top_g), options)

    def tokenize(self, text: str, *, model: str = "", **options: Unpack[CallOptions]) -> tuple[Token, ...]:
        return self._ask(calls.tokenize(text, model), options)

    def detokenize(self, ids: Iterable[int], *, model: str = "", **options: Unpack[CallOptions]) -> str:
        return self._ask(calls.detokenize(ids, model), options)

    def models(self, **options: Unpack[CallOptions]) -> tuple[ModelInfo, ...]:
        return self._ask(calls.models(), options)

    def model(self, name: str = "", **options: Unpack[CallOptions]) -> ModelInfo:
        return self._ask(calls.model(name), options)

    def is_serving(self, service: str = "", **options: Unpack[CallOptions]) -> bool:
        """Whether the server says that it is ready for calls."""
        return self._ask(calls.health(service), options)

    def create_session(self, session_id: str = "", *, model: str = "", **options: Unpack[CallOptions]) -> SessionInfo:
        """Without an id, the server makes one that nobody can guess."""
        return self._ask(calls.create_session(session_id, model), options)

    def get_session(self, session_id: str, **options: Unpack[CallOptions]) -> SessionInfo:
        return self._ask(calls.get_session(session_id), options)

    def list_sessions(self, **options: Unpack[CallOptions]) -> Iterator[SessionInfo]:
        """Oldest first; pages are fetched as they are needed."""
        page_token = ""
        while True:
            page, page_token = self._ask(calls.list_sessions(page_token), options)
            yield from page
            if not page_token:
                return

    def delete_session(self, session_id: str, **options: Unpack[CallOptions]) -> None:
        self._ask(calls.delete_session(session_id), options)

    @contextmanager
    def session(self, session_id: str = "", *, model: str = "", keep: bool = False) -> Iterator["Session"]:
        """A new session, deleted at the end unless `keep`."""
        session = Session(self, self.create_session(session_id, model=model).session_id)
        try:
            yield session
        finally:
            if not keep:
                with suppress(ServerError):  # gone already, or it will expire
                    session.delete()

    def _ask(self, call: Call[Answer], options: CallOptions) -> Answer:
        method = getattr(call.stub(self._channel), call.method)
        try:
            return call.parse(method(call.request, **self._connection.arguments(call, options)))
        except grpc.RpcError as error:
            raise read_error(error, self._connection.address) from error

    def _stream(self, call: Call[Answer], options: CallOptions, requests: Any = None) -> Stream[Answer]:
        method = getattr(call.stub(self._channel), call.method)
        started = method(requests or call.request, **self._connection.arguments(call, options))
        return Stream(started, call.parse, self._connection.address)


class Session:
    """One conversation: every call continues where the last one ended. It need not have been made by this client."""

    def __init__(self, client: Client, session_id: str) -> None:
        self._client = client
        self.session_id = session_id

    def __repr__(self) -> str:
        return f"Session({self.session_id!r})"

    def feed(self, prompt: Prompt, **options: Unpack[CallOptions]) -> int:
        """Let the model read `prompt`. Returns the new position."""
        finished = None
        for piece in self._client.generate(prompt, session_id=self.session_id, max_tokens=0, **options):
            finished = piece.finished
        if finished is None:
            raise ended_early()
        return finished.position

    def generate(self, prompt: Prompt = "", **options: Unpack[GenerateOptions]) -> Stream[Piece]:
        """As in `Client`; the session moves on only when the stream is read to its end."""
        return self._client.generate(prompt, session_id=self.session_id, **options)

    def predictor(self, **options: Unpack[CallOptions]) -> Predictor:
        return self._client.predictor(session_id=self.session_id, **options)

    def predict(
        self,
        prompt: Prompt = "",
        *,
        k: int | None = None,
        word_prefix: str | None = None,
        num_words: int | None = None,
        **options: Unpack[CallOptions],
    ) -> Prediction:
        with self.predictor(**options) as predict:
            return predict(prompt, k=k, word_prefix=word_prefix, num_words=num_words)

    def score(self, prompt: Prompt, *, top_g: int | None = None, **options: Unpack[CallOptions]) -> Stream[ScorePiece]:
        return self._client.score(prompt, session_id=self.session_id, top_g=top_g, **options)

    def get(self, **options: Unpack[CallOptions]) -> SessionInfo:
        return self._client.get_session(self.session_id, **options)

    def delete(self, **options: Unpack[CallOptions]) -> None:
        self._client.delete_session(self.session_id, **options)

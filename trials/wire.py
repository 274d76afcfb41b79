"""Calls by raw gRPC, each made once, and the meaning of their failures."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from trials.histories import Turn, Wish
from trials.plans import Way

from carousel.v1 import language_model_pb2 as lm
from carousel.v1 import language_model_pb2_grpc, sessions_pb2_grpc, types_pb2

_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),  # a separate connection, to be cut separately
)
_TEMPERATURE = 0.9
_NUM_CANDIDATES = 3
REPEATED_REASONS = {"OVERLOADED", "SESSION_MOVED", "STORE_UNAVAILABLE", "SHUTTING_DOWN"}
_BROKEN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
_OURS = {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}


class Stubs:
    """Both services over one channel, with the owner's metadata."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self.models = language_model_pb2_grpc.LanguageModelStub(channel)
        self.sessions = sessions_pb2_grpc.SessionsStub(channel)
        self.metadata = metadata


@contextlib.asynccontextmanager
async def connect(way: Way) -> AsyncIterator[Stubs]:
    async with _open_channel(way) as channel:
        yield Stubs(channel, way.metadata)


def _open_channel(way: Way) -> grpc.aio.Channel:
    if way.tls is None:
        return grpc.aio.insecure_channel(way.address, options=_OPTIONS)
    return grpc.aio.secure_channel(way.address, way.tls.credentials(), options=_OPTIONS)


class StreamCut(Exception):
    """The stream ended without an end, or this side gave it up."""


def open_turn(
    stubs: Stubs, wish: Wish, session_id: str, request_id: str, expected_position: int | None, timeout: float
) -> Any:
    """Returns the call. `read_turn` reads its answer."""
    given: dict[str, Any] = {"session_id": session_id, "request_id": request_id, "expected_position": expected_position}
    given["input"] = types_pb2.Input(tokens=types_pb2.TokenIds(ids=wish.ids))
    how: dict[str, Any] = {"timeout": timeout, "metadata": stubs.metadata}
    match wish.call:
        case "generate":
            sampling = lm.Sampling(temperature=_TEMPERATURE, seed=wish.seed)
            content = lm.GenerateRequest.CONTENT_IDS
            generate = lm.GenerateRequest(**given, sampling=sampling, max_tokens=wish.max_tokens, content=content)
            return stubs.models.Generate(generate, **how)
        case "score":
            return stubs.models.Score(lm.ScoreRequest(**given), **how)
        case "predict":
            request = predict_request(wish, session_id, request_id, expected_position)
            return stubs.models.Predict(iter([request]), **how)


def predict_request(wish: Wish, session_id: str, request_id: str, expected_position: int | None) -> lm.PredictRequest:
    given = types_pb2.Input(tokens=types_pb2.TokenIds(ids=wish.ids))
    return lm.PredictRequest(
        session_id=session_id,
        request_id=request_id,
        expected_position=expected_position,
        input=given,
        k=_NUM_CANDIDATES,
    )


async def read_turn(call: Any, wish: Wish, give_up_after: int | None = None) -> Turn:
    """Raises StreamCut after `give_up_after` messages, and when the last message never comes. Otherwise it reads the
    call to its end, as users do: a cancellation just before costs a grpc.aio server about 70 bytes permanently."""
    answer: list[float] = []
    turn: Turn | None = None
    num_messages = 0
    try:
        async for message in call:
            answer += _read(message, wish)
            num_messages += 1
            if (position := _final_position(message, wish)) is not None:
                turn = Turn(wish, position, tuple(answer))
            elif num_messages == give_up_after:
                break
    except grpc.aio.AioRpcError:
        if turn is None:
            raise
    finally:
        call.cancel()
    if turn is None:
        raise StreamCut
    return turn


def _read(message: Any, wish: Wish) -> list[float]:
    match wish.call:
        case "generate":
            return [token.id for token in message.tokens]
        case "score":
            return [token.log_probability for token in message.tokens]
        case "predict":
            return read_prediction(message)


def read_prediction(message: lm.PredictResponse) -> list[float]:
    return [value for one in message.candidates for value in (one.id, one.log_probability)]


def _final_position(message: Any, wish: Wish) -> int | None:
    match wish.call:
        case "generate":
            return int(message.finished.position) if message.HasField("finished") else None
        case "score":
            return int(message.totals.position) if message.HasField("totals") else None
        case "predict":
            return int(message.position)


def error_info(error: grpc.RpcError) -> Any:
    """Returns the server's ErrorInfo; an empty one where there is none."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        status = None
    info = error_details_pb2.ErrorInfo()
    for packed in status.details if status is not None else ():
        if packed.Is(info.DESCRIPTOR):
            packed.Unpack(info)
    return info


def may_repeat(error: grpc.RpcError) -> bool:
    """Returns whether the same request may succeed later: a connection broke, this side gave up, or the server says
    so."""
    if error.code() in _OURS:
        return True
    reason = error_info(error).reason
    return reason in REPEATED_REASONS if reason else error.code() in _BROKEN

"""The client library's door: `Client` blocks, `AsyncClient` is for asyncio; both offer the same calls.

It needs grpc and the wire contract alone: it knows no model, no arrays and nothing of the server's inside.

    with Client("127.0.0.1:50051") as client:
        for piece in client.generate("The ", max_tokens=40):
            print(piece.text, end="")
"""

from carousel.client.aio import AsyncClient
from carousel.client.aio_predictor import AsyncPredictor, AsyncSessionPredictor
from carousel.client.aio_session import AsyncSession
from carousel.client.aio_transport import AsyncStream
from carousel.client.blocking import Client
from carousel.client.blocking_predictor import Predictor, SessionPredictor
from carousel.client.blocking_session import Session
from carousel.client.blocking_transport import Stream
from carousel.client.errors import AnswerChanged, FieldViolation, ServerError, ServerUnreachable
from carousel.client.options import CallOptions, ChangeOptions, GenerateOptions, PredictOptions, Prompt, TurnOptions
from carousel.client.results import (
    Candidate,
    Finished,
    GeneratedToken,
    History,
    Limits,
    ModelInfo,
    Piece,
    Prediction,
    ScoredToken,
    ScorePiece,
    ScoreTotals,
    SessionEvent,
    SessionInfo,
    Token,
    Word,
)
from carousel.client.retries import Retries

__all__ = [
    "AnswerChanged",
    "AsyncClient",
    "AsyncPredictor",
    "AsyncSession",
    "AsyncSessionPredictor",
    "AsyncStream",
    "CallOptions",
    "Candidate",
    "ChangeOptions",
    "Client",
    "FieldViolation",
    "Finished",
    "GenerateOptions",
    "GeneratedToken",
    "History",
    "Limits",
    "ModelInfo",
    "Piece",
    "PredictOptions",
    "Prediction",
    "Predictor",
    "Prompt",
    "Retries",
    "ScorePiece",
    "ScoreTotals",
    "ScoredToken",
    "ServerError",
    "ServerUnreachable",
    "Session",
    "SessionEvent",
    "SessionInfo",
    "SessionPredictor",
    "Stream",
    "Token",
    "TurnOptions",
    "Word",
]

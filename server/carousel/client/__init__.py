"""The client library's door: `Client` blocks, `AsyncClient` is for asyncio; both offer the same calls.

It needs grpc and the wire contract alone: it knows no model, no arrays and nothing of the server's inside.

    with Client("127.0.0.1:50051") as client:
        for piece in client.generate("The ", max_tokens=40):
            print(piece.text, end="")
"""

from carousel.client.aio import AsyncClient, AsyncPredictor, AsyncSession, AsyncStream
from carousel.client.blocking import Client, Predictor, Session, Stream
from carousel.client.calls import CallOptions, GenerateOptions, Prompt
from carousel.client.errors import FieldViolation, ServerError, ServerUnreachable
from carousel.client.results import (
    Candidate,
    Finished,
    GeneratedToken,
    Limits,
    ModelInfo,
    Piece,
    Prediction,
    ScoredToken,
    ScorePiece,
    ScoreTotals,
    SessionInfo,
    Token,
    Word,
)

__all__ = [
    "AsyncClient",
    "AsyncPredictor",
    "AsyncSession",
    "AsyncStream",
    "CallOptions",
    "Candidate",
    "Client",
    "FieldViolation",
    "Finished",
    "GenerateOptions",
    "GeneratedToken",
    "Limits",
    "ModelInfo",
    "Piece",
    "Prediction",
    "Predictor",
    "Prompt",
    "ScorePiece",
    "ScoreTotals",
    "ScoredToken",
    "ServerError",
    "ServerUnreachable",
    "Session",
    "SessionInfo",
    "Stream",
    "Token",
    "Word",
]

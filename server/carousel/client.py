"""The client library's door: `Client` blocks, `AsyncClient` is for asyncio; both offer the same calls.

It needs grpc and the wire contract alone: it knows no model, no arrays and nothing of the server's inside.

    with Client("127.0.0.1:50051") as client:
        for piece in client.generate("The ", max_tokens=40):
            print(piece.text, end="")
"""

from carousel.client_async import AsyncClient, AsyncPredictor, AsyncSession, AsyncStream
from carousel.client_calls import CallOptions, GenerateOptions, Prompt
from carousel.client_errors import FieldViolation, ServerError, ServerUnreachable
from carousel.client_results import (
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
from carousel.client_sync import Client, Predictor, Session, Stream

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

"""The public names of the client library: `Client` blocks, `AsyncClient` is for asyncio; both offer the same calls.

The library needs only grpc and the wire contract. It uses no model, no arrays and no server code.

    with Client("127.0.0.1:50051") as client:
        for piece in client.generate("The ", max_tokens=40):
            print(piece.text, end="")
"""

from carousel.client._async.client import AsyncClient
from carousel.client._async.predictor import AsyncPredictor, AsyncSessionPredictor
from carousel.client._async.session import AsyncSession
from carousel.client._async.streams import AsyncStream
from carousel.client._sync.client import Client
from carousel.client._sync.predictor import Predictor, SessionPredictor
from carousel.client._sync.session import Session
from carousel.client._sync.streams import Stream
from carousel.client.core.errors import AnswerChanged, FieldViolation, ServerError, ServerUnreachable
from carousel.client.core.options import (
    CallOptions,
    ChangeOptions,
    GenerateOptions,
    PredictOptions,
    Prompt,
    TurnOptions,
)
from carousel.client.core.results import (
    Candidate,
    Finished,
    GeneratedToken,
    History,
    Inspected,
    InspectedToken,
    Limits,
    ModelInfo,
    Origin,
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
from carousel.client.core.retries import Retries
from carousel.client.core.tls import Tls

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
    "Inspected",
    "InspectedToken",
    "Limits",
    "ModelInfo",
    "Origin",
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
    "Tls",
    "Token",
    "TurnOptions",
    "Word",
]

"""What each call needs: the one table, for every transport. Where callers must be known, a call that is not in it is
refused, whoever makes it."""

import enum
from collections.abc import Mapping


class Scope(enum.StrEnum):
    """What a principal may do. `admin` includes all."""

    GENERATE = "generate"  # and predict
    SCORE = "score"
    SESSIONS = "sessions"  # make, read, move and end them
    METRICS = "metrics"
    ADMIN = "admin"


HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
PROBES = frozenset({"/healthz", "/readyz"})  # they need no identity
TURN_SCOPES = frozenset({Scope.GENERATE, Scope.SCORE})
_ANY = frozenset(Scope)

# Each needs one of its scopes. These are the methods of our own services: they work for an owner.
CALLS: Mapping[str, frozenset[Scope]] = {
    "Generate": frozenset({Scope.GENERATE}),
    "Predict": frozenset({Scope.GENERATE}),
    "PredictMany": frozenset({Scope.GENERATE}),
    "Score": frozenset({Scope.SCORE}),
    "InspectSession": frozenset({Scope.SCORE}),  # one that names a session must also be allowed `READING`
    "Tokenize": TURN_SCOPES,
    "Detokenize": TURN_SCOPES,
    "ListModels": _ANY,
    "GetModel": _ANY,
} | dict.fromkeys(
    ("CreateSession", "GetSession", "ListSessions", "DeleteSession", "ForkSession", "RewindSession",
     "SaveCheckpoint", "GetHistory", "ExportSession", "ImportSession", "WatchSessions"),
    frozenset({Scope.SESSIONS}),
)  # fmt: skip

READING = "GetSession"  # the call that whoever reads a session must be allowed, whatever else the call is

# The same over HTTP: the routes that OpenAI's clients know, and our own.
HTTP_CALLS: Mapping[str, frozenset[Scope]] = {
    "/v1/models": _ANY,
    "/v1/completions": frozenset({Scope.GENERATE}),
    "/v1/chat/completions": frozenset({Scope.GENERATE}),
    "/tokenizer_info": _ANY,
    "/tokenize": TURN_SCOPES,
    "/detokenize": TURN_SCOPES,
    "/carousel/v1/model": _ANY,
    "/carousel/v1/figures": frozenset({Scope.METRICS}),
    "/carousel/v1/predict": frozenset({Scope.GENERATE}),
    "/carousel/v1/score": frozenset({Scope.SCORE}),
    "/carousel/v1/inspect": frozenset({Scope.SCORE}),  # as InspectSession
    "/carousel/v1/tree": frozenset({Scope.SESSIONS}),
    "/carousel/v1/import": frozenset({Scope.SESSIONS}),
    "/carousel/v1/sessions": frozenset({Scope.SESSIONS}),
} | dict.fromkeys(
    ["/carousel/v1/sessions/{session_id}" + of_one
     for of_one in ("", "/history", "/fork", "/rewind", "/checkpoint", "/export")],
    frozenset({Scope.SESSIONS}),
)  # fmt: skip

# What only the server itself is asked: other gRPC services as a whole, and paths of HTTP. They know no owner.
OF_SERVER: Mapping[str, frozenset[Scope]] = {
    HEALTH: _ANY,
    REFLECTION: _ANY,
    "/metrics": frozenset({Scope.METRICS}),
    "/healthz": _ANY,
    "/readyz": _ANY,
}

SCOPES = {**CALLS, **HTTP_CALLS, **OF_SERVER}

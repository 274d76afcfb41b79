"""Bounds as the settings have them by default, but for what a test changes."""

from dataclasses import replace
from typing import Any

from carousel.engine.scheduler import Bounds
from carousel.rpc.server import ConnectionBounds
from carousel.sessions.checks import Limits
from carousel.sessions.ledger import Retention
from carousel.settings import Settings

_SETTINGS = Settings()
_BOUNDS, _LIMITS, _RETENTION = Bounds.of(_SETTINGS), Limits.of(_SETTINGS), Retention.of(_SETTINGS)
_CONNECTIONS = replace(ConnectionBounds.of(_SETTINGS), max_streams=2**20)


def make_bounds(**changed: Any) -> Bounds:
    """Without room for held sequences."""
    return replace(_BOUNDS, **changed)


def make_limits(max_input_tokens: int, max_generated_tokens: int, **changed: Any) -> Limits:
    return replace(_LIMITS, max_input_tokens=max_input_tokens, max_generated_tokens=max_generated_tokens, **changed)


def make_retention(**changed: Any) -> Retention:
    return replace(_RETENTION, **changed)


def make_connection_bounds(max_message_bytes: int, **changed: Any) -> ConnectionBounds:
    """Without a bound of streams."""
    return replace(_CONNECTIONS, max_message_bytes=max_message_bytes, **changed)

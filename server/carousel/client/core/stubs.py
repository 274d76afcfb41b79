"""The services that a client calls, as the library's stubs.

A wire creates all stubs at its start: on a closed channel the library fails to create one, and may crash.
"""

from collections.abc import Callable
from typing import Any

from grpc_health.v1 import health_pb2_grpc

from carousel.v1 import language_model_pb2_grpc, sessions_pb2_grpc

MakeStub = Callable[[Any], Any]  # takes a channel

MODELS: MakeStub = language_model_pb2_grpc.LanguageModelStub
SESSIONS: MakeStub = sessions_pb2_grpc.SessionsStub
HEALTH: MakeStub = health_pb2_grpc.HealthStub
STUBS = (MODELS, SESSIONS, HEALTH)

"""Every method of the server's port, from the descriptors of the wire contract."""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from carousel.v1 import language_model_pb2, sessions_pb2

_ENDLESS = frozenset({"WatchSessions", "Watch"})
_FILES = (language_model_pb2, sessions_pb2, health_pb2, reflection_pb2)


@dataclass(frozen=True, slots=True)
class Method:
    """One method. `is_endless`: it answers until its caller leaves."""

    name: str
    path: str
    request: type[Message]
    answer: type[Message]
    takes_stream: bool
    is_endless: bool


def _read(method: MethodDescriptor) -> Method:
    path = f"/{method.containing_service.full_name}/{method.name}"
    request, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    return Method(method.name, path, request, answer, method.client_streaming, method.name in _ENDLESS)


METHODS: Mapping[str, Method] = {
    method.name: _read(method)
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

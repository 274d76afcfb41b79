"""The gRPC calls among all open calls."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, TypeAlias

import grpc
from grpc_status import rpc_status

from carousel.errors import CarouselError
from carousel.identity.doorkeeper import Evidence, name_subjects
from carousel.rpc.errors import to_status
from carousel.rpc.reading import UNREADABLE
from carousel.sessions.calls import Call, CallRefused, Calls
from carousel.sessions.refusals import ItemRefusals
from carousel.v1 import language_model_pb2, sessions_pb2

Context: TypeAlias = grpc.aio.ServicerContext  # a name for annotations; grpc ships no types
_NAMES = {  # of each method, with its service
    method: f"{service.full_name}/{method}"
    for file in (language_model_pb2, sessions_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods_by_name
}
_SUBJECTS = ("peer_uri", "x509_common_name")


class RpcCalls:
    """Runs gRPC calls and gives each its status at the end."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    @contextlib.asynccontextmanager
    async def answer(
        self, method: str, context: Context, request: Any = None, *, is_counted: bool = True
    ) -> AsyncIterator[Call]:
        """Runs a handler's body. Every error that the body raises is counted and becomes the call's status. `request`
        is the call's message, if it has one. A call with `is_counted` false needs no place among the streams."""
        call = Call(method, request, _collect_evidence(context), grpc.aio.InternalError, _describe_span(method))
        is_readable = request is not UNREADABLE
        try:
            async with self._calls.answer(call, context, is_counted=is_counted, is_readable=is_readable):
                yield call
            return
        except CallRefused as refused:
            error = refused.error
        await context.abort_with_status(rpc_status.to_status(to_status(error)))

    def permit(self, call: Call, method: str) -> None:
        """Asks whether the caller of an open call may also make the call `method`, which is a part of it. Raises the
        refusal."""
        self._calls.permit(call, method)

    async def admit(self, service: str, context: Context) -> None:
        """Ends a call of another service, such as health, if its caller may not make it."""
        try:
            self._calls.admit(service, _collect_evidence(context))
        except CarouselError as error:
            await context.abort_with_status(rpc_status.to_status(to_status(error)))

    def refusing_items(self, method: str, context: Context) -> ItemRefusals:
        """Returns the ItemRefusals for items that fail while their call goes on."""
        return self._calls.refusing_items(method, context.peer())


def _describe_span(method: str) -> tuple[str, dict[str, str]]:
    """Returns the name and the attributes of a call's span, as OpenTelemetry's conventions for RPC have them."""
    name = _NAMES.get(method, method)
    return name, {"rpc.system.name": "grpc", "rpc.method": name}


def _collect_evidence(context: Context) -> Evidence:
    return Evidence(context.invocation_metadata() or (), context.peer(), partial(_read_subjects, context))


def _read_subjects(context: Context) -> list[str]:
    """Returns the names in the caller's certificate. gRPC has checked it: a listener asks for one only then."""
    facts = context.auth_context()
    uris, names = ([one.decode("utf-8", "replace") for one in facts.get(key, ())] for key in _SUBJECTS)
    return name_subjects(uris, names)

"""Refuses messages that cannot be decoded. grpc.aio itself would answer UNKNOWN, with the decoder's text.

A decoder that fails returns `UNREADABLE` instead of a message. Our servicers know that value (`RpcCalls.answer`). The
other servicers (health, reflection) do not, so their methods are wrapped. Nor do they ask who calls: that is done here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from carousel.rpc.errors import to_status
from carousel.sessions.calls import message_invalid

UNREADABLE: Any = object()
# Takes a service's name and a call's context; ends a call that may not be made.
Admit = Callable[[str, Any], Awaitable[None]]
_AS_BYTES = frozenset({"PredictMany"})  # its frames are decoded item by item, in `frames.py`
_BEHAVIOURS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class OurMethods:
    """Takes a server's place when generated code registers methods. Registers them with a decoder that cannot fail."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Does nothing: the generated code registers the same methods by name, too."""

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, grpc.RpcMethodHandler]) -> None:
        tolerant = {name: self._guard(service, name, method) for name, method in methods.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, tolerant),))

    def _guard(self, service: str, name: str, method: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        return method._replace(
            request_deserializer=None if name in _AS_BYTES else _tolerate(method.request_deserializer),
            response_serializer=_pass_bytes(method.response_serializer),
        )


class OthersMethods(OurMethods):
    """Registers the methods of servicers that do not know `UNREADABLE` and do not ask who calls."""

    def __init__(self, server: Any, admit: Admit) -> None:
        super().__init__(server)
        self._admit = admit

    def _guard(self, service: str, name: str, method: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        (kind,) = (one for one in _BEHAVIOURS if getattr(method, one) is not None)
        refuse = _refuse_stream if method.request_streaming else _refuse
        refusing = refuse(getattr(method, kind), partial(self._admit, service))
        return super()._guard(service, name, method)._replace(**{kind: refusing})


def _tolerate(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decode_or_mark(content: bytes) -> Any:
        try:
            return decode(content)
        except DecodeError:
            return UNREADABLE

    return decode_or_mark


def _pass_bytes(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Returns an encoder that passes an answer through if it is already bytes."""
    return lambda message: message if type(message) is bytes else encode(message)


def _refuse(answer: Callable[[Any, Any], Any], admit: Callable[[Any], Awaitable[None]]) -> Callable[[Any, Any], Any]:
    async def answer_readable(request: Any, context: Any) -> Any:
        await admit(context)
        if request is UNREADABLE:
            await _abort(context)
        return await answer(request, context)

    return answer_readable


def _refuse_stream(
    answer: Callable[[Any, Any], Any], admit: Callable[[Any], Awaitable[None]]
) -> Callable[[Any, Any], Any]:
    async def readable(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            if request is UNREADABLE:
                await _abort(context)
            yield request

    async def answer_readable(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        await admit(context)
        async for response in answer(readable(requests, context), context):
            yield response

    return answer_readable


async def _abort(context: Any) -> None:
    await context.abort_with_status(rpc_status.to_status(to_status(message_invalid())))

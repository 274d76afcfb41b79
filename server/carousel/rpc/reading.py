"""Messages that cannot be decoded, as refusals of ours. grpc.aio itself answers UNKNOWN, with the decoder's text.

A decoder that fails hands on `UNREADABLE` instead of a message. Our servicers' calls know it (`RpcCalls.answer`); those
of others (health, reflection) are wrapped.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from carousel.rpc.errors import to_status
from carousel.sessions.calls import message_invalid

UNREADABLE: Any = object()
_AS_BYTES = frozenset({"PredictMany"})  # its frames are decoded item by item, in `frames.py`
_BEHAVIOURS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class OurMethods:
    """Stands for a server where generated code registers methods; hands them on with a decoder that cannot fail."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Nothing to do: the same methods come again, by name."""

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, grpc.RpcMethodHandler]) -> None:
        tolerant = {name: self._guard(name, method) for name, method in methods.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, tolerant),))

    def _guard(self, name: str, method: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        return method._replace(
            request_deserializer=None if name in _AS_BYTES else _tolerate(method.request_deserializer),
            response_serializer=_pass_bytes(method.response_serializer),
        )


class OthersMethods(OurMethods):
    """The same for servicers that do not know `UNREADABLE`."""

    def _guard(self, name: str, method: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        (kind,) = (one for one in _BEHAVIOURS if getattr(method, one) is not None)
        refusing = (_refuse_stream if method.request_streaming else _refuse)(getattr(method, kind))
        return super()._guard(name, method)._replace(**{kind: refusing})


def _tolerate(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decode_or_mark(content: bytes) -> Any:
        try:
            return decode(content)
        except DecodeError:
            return UNREADABLE

    return decode_or_mark


def _pass_bytes(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """An answer may come as bytes already."""
    return lambda message: message if type(message) is bytes else encode(message)


def _refuse(answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    async def answer_readable(request: Any, context: Any) -> Any:
        if request is UNREADABLE:
            await _abort(context)
        return await answer(request, context)

    return answer_readable


def _refuse_stream(answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    async def readable(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            if request is UNREADABLE:
                await _abort(context)
            yield request

    async def answer_readable(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for response in answer(readable(requests, context), context):
            yield response

    return answer_readable


async def _abort(context: Any) -> None:
    await context.abort_with_status(rpc_status.to_status(to_status(message_invalid())))

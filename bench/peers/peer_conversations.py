"""Conversations with Triton and MLServer in the Open Inference Protocol."""

import secrets
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from bench.peers.conversation import NUM_CANDIDATES, TIMEOUT_SECONDS, ServerFailed
from bench.peers.lines import Apart, Line, OwnStream, SharedStream, Together

_SERVICE = "/inference.GRPCInferenceService"
_START, _END = 1, 2  # flags in MLServer's tensor
_CANDIDATES = struct.Struct(f"<{NUM_CANDIDATES}q")


class _TritonTurns:
    """Requests to Triton, and what its answers hold."""

    def __init__(self) -> None:
        self.request = _make_request("TOKEN", 1)
        self.request.parameters["sequence_id"].int64_param = _new_sequence()
        self.request.parameters["sequence_start"].bool_param = True
        self._is_fresh = True

    def feed(self, token: int) -> Any:
        self.request.raw_input_contents[0] = token.to_bytes(8, "little")
        return self.request

    def read(self, response: Any) -> Sequence[int]:
        if self._is_fresh:
            self._is_fresh = False
            del self.request.parameters["sequence_start"]
        return _CANDIDATES.unpack(response.raw_output_contents[0])

    def end(self) -> Any:
        self.request.parameters["sequence_end"].bool_param = True
        return self.request


class TritonUnary:
    """A ModelInfer call for each token."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._infer = _unary_method(channel)
        self._turns = _TritonTurns()

    async def step(self, token: int) -> Sequence[int]:
        return self._turns.read(await self._infer(self._turns.feed(token), timeout=TIMEOUT_SECONDS))

    async def close(self) -> None:
        await self._infer(self._turns.end())


class TritonStream:
    """Requests on a ModelStreamInfer stream, its own or one that others share."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._turns = _TritonTurns()

    async def step(self, token: int) -> Sequence[int]:
        return self._turns.read(await self._ask(self._turns.feed(token)))

    async def close(self) -> None:
        await self._ask(self._turns.end())
        await self._line.close()

    async def _ask(self, request: Any) -> Any:
        response = await self._line.ask(request)
        if response.error_message:
            raise ServerFailed(response.error_message)
        return response.infer_response


def triton_apart(channel: grpc.aio.Channel) -> Apart:
    """A stream for each sequence."""
    return Apart(lambda: TritonStream(OwnStream(_open_stream(channel))))


def triton_together(channel: grpc.aio.Channel, num_streams: int) -> Together:
    """So many streams for all sequences."""
    streams = [SharedStream(_open_stream(channel), _number, _find_number) for _ in range(num_streams)]
    return Together(streams, TritonStream)


def _number(asked: list[tuple[int, Any]]) -> Iterator[Any]:
    """A message for each request: the protocol has no frames."""
    for tag, request in asked:
        request.id = str(tag)
        yield request


def _find_number(response: Any) -> Iterator[tuple[int, Any]]:
    if not response.infer_response.id:
        raise ServerFailed(response.error_message or "an answer without an id")
    yield int(response.infer_response.id), response


class MLServerUnary:
    """A ModelInfer call for each token; the sequence id and its flags travel in the tensor."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._infer = _unary_method(channel)
        self._request = _make_request("TURN", 3)
        self._sequence = _new_sequence()
        self._flags = _START

    async def step(self, token: int) -> Sequence[int]:
        self._request.raw_input_contents[0] = struct.pack("<3q", self._sequence, self._flags, token)
        self._flags = 0
        response = await self._infer(self._request, timeout=TIMEOUT_SECONDS)
        return _CANDIDATES.unpack(response.raw_output_contents[0])

    async def close(self) -> None:
        self._flags = _END
        await self.step(0)


def _open_stream(channel: grpc.aio.Channel) -> Any:
    messages = _messages()
    return channel.stream_stream(
        f"{_SERVICE}/ModelStreamInfer",
        request_serializer=messages.InferRequest.SerializeToString,
        response_deserializer=messages.StreamInferResponse.FromString,
    )()


def _messages() -> Any:
    return grpc.protos("bench/peers/open_inference.proto")


def _make_request(tensor: str, num_values: int) -> Any:
    request = _messages().InferRequest(model_name="carousel", raw_input_contents=[b""])
    request.inputs.add(name=tensor, datatype="INT64", shape=[1, num_values])
    return request


def _unary_method(channel: grpc.aio.Channel) -> Any:
    messages = _messages()
    return channel.unary_unary(
        f"{_SERVICE}/ModelInfer",
        request_serializer=messages.InferRequest.SerializeToString,
        response_deserializer=messages.InferResponse.FromString,
    )


def _new_sequence() -> int:
    return 1 + secrets.randbits(62)

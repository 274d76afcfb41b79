"""What the tests of persistent sessions share: keys, callers, and what a stream gave."""

import base64
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from tests.server_process import ServerProcess

from carousel.client import Client, Finished, Piece, ServerError

KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(2)]
SAMPLED: dict[str, Any] = {"temperature": 0.9, "seed": 7}


def call_as(server: ServerProcess, owner: str) -> Client:
    return Client(server.grpc_address, timeout_seconds=60, metadata=[("x-owner", owner)])


def ids_of(pieces: Iterable[Piece]) -> list[int]:
    return [token.id for piece in pieces for token in piece.tokens]


def text_of(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def end_of(pieces: list[Piece]) -> Finished:
    end = pieces[-1].finished
    assert end is not None
    return end


def failure(call: Callable[[], object]) -> ServerError:
    with pytest.raises(ServerError) as caught:
        call()
    return caught.value

"""The operations on sessions over HTTP. Each handler converts, calls one operation, and converts back."""

from base64 import b64encode
from collections.abc import Sequence

from carousel.errors import InvalidRequest
from carousel.sessions.calls import Call
from carousel.sessions.histories import read_histories
from carousel.sessions.operations import SessionOperations
from carousel.state.store import Row
from carousel.web.bodies import parse
from carousel.web.door import Named, answer_json, request_id_of
from carousel.web.exchange import Exchange
from carousel.web.json_api import shapes
from carousel.web.json_api.bodies import (
    CheckpointBody,
    CreateBody,
    ExportBody,
    ForkBody,
    ImportBody,
    RewindBody,
)


class SessionHandlers:
    """Each takes an admitted call and the body of its request."""

    def __init__(self, operations: SessionOperations) -> None:
        self._operations = operations

    async def list_or_create(self, call: Call, exchange: Exchange, content: bytes) -> None:
        if exchange.request.method == "POST":
            body = parse(CreateBody, content)
            named = _name(call, exchange, body.session_id)
            row = await self._operations.create(call.owner, body.session_id, request_id=named.request_id)
            return await self._tell(call, exchange, row)
        size, token = _page_of(exchange)
        page = await self._operations.list_page(call.owner, size, token)
        await self._tell_page(call, exchange, page.rows, page.next_token)

    async def get_or_delete(self, call: Call, exchange: Exchange, content: bytes) -> None:
        named = _name_by_path(call, exchange)
        if exchange.request.method != "DELETE":  # HEAD comes with GET
            return await self._tell(call, exchange, await self._operations.get(call.owner, named.session_id))
        await self._operations.delete(call.owner, named.session_id, named.request_id)
        await answer_json(call, exchange, {})

    async def history(self, call: Call, exchange: Exchange, content: bytes) -> None:
        named = _name_by_path(call, exchange)
        history = await self._operations.history(call.owner, named.session_id)
        await answer_json(call, exchange, shapes.of_history(history, self._operations.durable_position(history.row)))

    async def tree(self, call: Call, exchange: Exchange, content: bytes) -> None:
        size, token = _page_of(exchange)
        found = await read_histories(self._operations, call.owner, size, token)
        durable = self._operations.durable_position
        sessions = [shapes.of_history(one, durable(one.row)) for one in found.histories]
        await answer_json(call, exchange, {"sessions": sessions, "next_page_token": found.next_token})

    async def fork(self, call: Call, exchange: Exchange, content: bytes) -> None:
        named, body = _name_by_path(call, exchange), parse(ForkBody, content)
        rows = await self._operations.fork(
            call.owner, named.session_id, body.point, body.new_session_ids, body.count, named.request_id
        )
        await self._tell_page(call, exchange, rows, "")

    async def rewind(self, call: Call, exchange: Exchange, content: bytes) -> None:
        named, body = _name_by_path(call, exchange), parse(RewindBody, content)
        row = await self._operations.rewind(
            call.owner, named.session_id, body.point, body.expected_position, named.request_id
        )
        await self._tell(call, exchange, row)

    async def save_checkpoint(self, call: Call, exchange: Exchange, content: bytes) -> None:
        named, body = _name_by_path(call, exchange), parse(CheckpointBody, content)
        row = await self._operations.mark(call.owner, named.session_id, body.checkpoint, named.request_id)
        await self._tell(call, exchange, row)

    async def export(self, call: Call, exchange: Exchange, content: bytes) -> None:
        named, body = _name_by_path(call, exchange), parse(ExportBody, content)
        state, position = await self._operations.export(call.owner, named.session_id, body.point, body.ttl_seconds)
        await answer_json(call, exchange, {"state": b64encode(state).decode(), "position": position})

    async def import_state(self, call: Call, exchange: Exchange, content: bytes) -> None:
        body = parse(ImportBody, content)
        named = _name(call, exchange, body.session_id)
        row = await self._operations.import_state(call.owner, body.blob, body.session_id, named.request_id)
        await self._tell(call, exchange, row)

    async def _tell(self, call: Call, exchange: Exchange, row: Row) -> None:
        await answer_json(call, exchange, shapes.of_row(row, self._operations.durable_position(row)))

    async def _tell_page(self, call: Call, exchange: Exchange, rows: Sequence[Row], next_token: str) -> None:
        sessions = [shapes.of_row(row, self._operations.durable_position(row)) for row in rows]
        await answer_json(call, exchange, {"sessions": sessions, "next_page_token": next_token})


def _name(call: Call, exchange: Exchange, session_id: str) -> Named:
    """Notes for the log line what the request names. Here a key is of use without a session, too: it makes one."""
    named = Named(session_id, request_id_of(exchange, "any"))
    call.request = call.named = named
    return named


def _name_by_path(call: Call, exchange: Exchange) -> Named:
    return _name(call, exchange, exchange.request.path_params["session_id"])


def _page_of(exchange: Exchange) -> tuple[int, str]:
    query = exchange.request.query_params
    size = query.get("page_size", "0")
    if not (size.isascii() and size.isdecimal() and len(size) < 10):
        raise InvalidRequest("page_size", "must be a number")
    return int(size), query.get("page_token", "")

"""The life of sessions on the wire: convert, call one method of `Lives`, convert back."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode

from google.protobuf import empty_pb2

from carousel.errors import InvalidRequest
from carousel.rpc import convert
from carousel.rpc.calls import Calls, Context
from carousel.sessions.lives import Lives
from carousel.sessions.service import Sessions
from carousel.state.store import Row
from carousel.v1 import sessions_pb2 as wire
from carousel.v1 import sessions_pb2_grpc

_DEFAULT_PAGE = 50
_MAX_PAGE = 1000
_DEFAULT_TTL_SECONDS = 86_400.0


class SessionsServicer(sessions_pb2_grpc.SessionsServicer):
    """`sessions` gives the model and its start, `lives` the rest."""

    def __init__(self, sessions: Sessions, lives: Lives, calls: Calls) -> None:
        self._sessions = sessions
        self._lives = lives
        self._calls = calls

    async def CreateSession(self, request: wire.CreateSessionRequest, context: Context) -> wire.Session:
        async with self._calls.answer("CreateSession", context) as call:
            self._sessions.check_model(request.model)
            start = self._sessions.start_snapshot
            return self._describe(await self._lives.create(call.owner, request.session_id, start))

    async def GetSession(self, request: wire.GetSessionRequest, context: Context) -> wire.Session:
        async with self._calls.answer("GetSession", context) as call:
            return self._describe(await self._lives.get(call.owner, request.session_id))

    async def ListSessions(self, request: wire.ListSessionsRequest, context: Context) -> wire.ListSessionsResponse:
        async with self._calls.answer("ListSessions", context) as call:
            size = request.page_size or _DEFAULT_PAGE
            if not 0 < size <= _MAX_PAGE:
                raise InvalidRequest("page_size", f"must be from 1 to {_MAX_PAGE}, not {request.page_size}")
            found = await self._lives.list_owned(call.owner, _read_token(request.page_token), size + 1)
            page = found[:size]
            token = _write_token(page[-1]) if len(found) > size else ""
            return wire.ListSessionsResponse(sessions=map(self._describe, page), next_page_token=token)

    async def DeleteSession(self, request: wire.DeleteSessionRequest, context: Context) -> empty_pb2.Empty:
        async with self._calls.answer("DeleteSession", context) as call:
            await self._lives.delete(call.owner, request.session_id)
            return empty_pb2.Empty()

    async def ForkSession(self, request: wire.ForkSessionRequest, context: Context) -> wire.ForkSessionResponse:
        async with self._calls.answer("ForkSession", context) as call:
            point, ids = convert.to_point(request.point), list(request.new_session_ids)
            rows = await self._lives.fork(call.owner, request.session_id, point, ids, request.count)
            return wire.ForkSessionResponse(sessions=map(self._describe, rows))

    async def RewindSession(self, request: wire.RewindSessionRequest, context: Context) -> wire.Session:
        async with self._calls.answer("RewindSession", context) as call:
            expected = request.expected_position if request.HasField("expected_position") else None
            point = convert.to_point(request.point)
            return self._describe(await self._lives.rewind(call.owner, request.session_id, point, expected))

    async def SaveCheckpoint(self, request: wire.SaveCheckpointRequest, context: Context) -> wire.Session:
        async with self._calls.answer("SaveCheckpoint", context) as call:
            return self._describe(await self._lives.mark(call.owner, request.session_id, request.checkpoint))

    async def GetHistory(self, request: wire.GetHistoryRequest, context: Context) -> wire.History:
        async with self._calls.answer("GetHistory", context) as call:
            history = await self._lives.history(call.owner, request.session_id)
            return convert.from_history(history, self._describe(history.row))

    async def ExportSession(self, request: wire.ExportSessionRequest, context: Context) -> wire.ExportSessionResponse:
        async with self._calls.answer("ExportSession", context) as call:
            ttl = request.ttl  # added up by hand: whatever a client sends, it is a number
            ttl_seconds = ttl.seconds + ttl.nanos / 1e9 if request.HasField("ttl") else _DEFAULT_TTL_SECONDS
            point = convert.to_point(request.point)
            state, position = await self._lives.export(call.owner, request.session_id, point, ttl_seconds)
            return wire.ExportSessionResponse(state=state, position=position)

    async def ImportSession(self, request: wire.ImportSessionRequest, context: Context) -> wire.Session:
        async with self._calls.answer("ImportSession", context) as call:
            return self._describe(await self._lives.import_state(call.owner, request.state, request.session_id))

    async def WatchSessions(self, request: wire.WatchSessionsRequest, context: Context) -> None:
        async with self._calls.answer("WatchSessions", context) as call:
            call.is_waiting = True  # for events, which may never come: shutting down need not wait for them
            with self._lives.hub.watch(call.owner) as events:
                await context.send_initial_metadata(())  # from here on nothing is missed
                async for event in events:
                    await context.write(convert.from_event(event))

    def _describe(self, row: Row) -> wire.Session:
        return convert.from_row(row, self._sessions.manifest, self._lives.durable_position(row))


def _write_token(row: Row) -> str:
    return urlsafe_b64encode(f"{row.created_at!r} {row.id}".encode()).decode()


def _read_token(token: str) -> tuple[float, str]:
    """Where the page before ended. Raises InvalidRequest for a token that this server did not make."""
    if not token:
        return 0.0, ""
    try:
        created_at, _, session_id = urlsafe_b64decode(token).decode().partition(" ")
        return float(created_at), session_id
    except (ValueError, binascii.Error):
        raise InvalidRequest("page_token", "is not one that this server made") from None

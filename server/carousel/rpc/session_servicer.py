"""Operations on sessions, on the wire: converts the request, calls `SessionOperations` once, converts the result."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from google.protobuf import empty_pb2

from carousel.identity.scopes import READING
from carousel.rpc import convert, lengths
from carousel.rpc.calls import Context, RpcCalls
from carousel.sessions.inspection import Inspection
from carousel.sessions.operations import SessionOperations
from carousel.sessions.requests import Caller
from carousel.sessions.service import Sessions
from carousel.state.store import Row
from carousel.v1 import sessions_pb2 as wire
from carousel.v1 import sessions_pb2_grpc

_ROWS_PER_SLICE = 250  # less than 2 ms of the event loop


class SessionsServicer(sessions_pb2_grpc.SessionsServicer):
    """The servicer of sessions. `sessions` knows the model, `inspection` shows states; `operations` does the rest."""

    def __init__(
        self, sessions: Sessions, operations: SessionOperations, inspection: Inspection, calls: RpcCalls
    ) -> None:
        self._sessions = sessions
        self._operations = operations
        self._inspection = inspection
        self._calls = calls

    async def CreateSession(self, request: wire.CreateSessionRequest, context: Context) -> wire.Session:
        async with self._calls.answer("CreateSession", context, request) as call:
            self._sessions.check_model(request.model)
            row = await self._operations.create(call.owner, request.session_id, request_id=request.request_id)
            return self._describe(row)

    async def GetSession(self, request: wire.GetSessionRequest, context: Context) -> wire.Session:
        async with self._calls.answer("GetSession", context, request) as call:
            return self._describe(await self._operations.get(call.owner, request.session_id))

    async def ListSessions(self, request: wire.ListSessionsRequest, context: Context) -> wire.ListSessionsResponse:
        async with self._calls.answer("ListSessions", context, request) as call:
            page = await self._operations.list_page(call.owner, request.page_size, request.page_token)
            described = await self._describe_all(page.rows)
            return wire.ListSessionsResponse(sessions=described, next_page_token=page.next_token)

    async def DeleteSession(self, request: wire.DeleteSessionRequest, context: Context) -> empty_pb2.Empty:
        async with self._calls.answer("DeleteSession", context, request) as call:
            await self._operations.delete(call.owner, request.session_id, request.request_id)
            return empty_pb2.Empty()

    async def ForkSession(self, request: wire.ForkSessionRequest, context: Context) -> wire.ForkSessionResponse:
        async with self._calls.answer("ForkSession", context, request) as call:
            lengths.check_fork(request)
            point, ids = convert.to_point(request.point), list(request.new_session_ids)
            rows = await self._operations.fork(
                call.owner, request.session_id, point, ids, request.count, request.request_id
            )
            return wire.ForkSessionResponse(sessions=await self._describe_all(rows))

    async def RewindSession(self, request: wire.RewindSessionRequest, context: Context) -> wire.Session:
        async with self._calls.answer("RewindSession", context, request) as call:
            point, expected = convert.to_point(request.point), convert.to_expected(request)
            row = await self._operations.rewind(call.owner, request.session_id, point, expected, request.request_id)
            return self._describe(row)

    async def SaveCheckpoint(self, request: wire.SaveCheckpointRequest, context: Context) -> wire.Session:
        async with self._calls.answer("SaveCheckpoint", context, request) as call:
            name = request.checkpoint
            return self._describe(await self._operations.mark(call.owner, request.session_id, name, request.request_id))

    async def GetHistory(self, request: wire.GetHistoryRequest, context: Context) -> wire.History:
        async with self._calls.answer("GetHistory", context, request) as call:
            history = await self._operations.history(call.owner, request.session_id)
            return convert.from_history(history, self._describe(history.row))

    async def ExportSession(self, request: wire.ExportSessionRequest, context: Context) -> wire.ExportSessionResponse:
        async with self._calls.answer("ExportSession", context, request) as call:
            point = convert.to_point(request.point)
            state, position = await self._operations.export(
                call.owner, request.session_id, point, convert.to_ttl(request)
            )
            return wire.ExportSessionResponse(state=state, position=position)

    async def ImportSession(self, request: wire.ImportSessionRequest, context: Context) -> wire.Session:
        async with self._calls.answer("ImportSession", context, request) as call:
            state, new_id = request.state, request.session_id
            return self._describe(await self._operations.import_state(call.owner, state, new_id, request.request_id))

    async def InspectSession(self, request: wire.InspectSessionRequest, context: Context) -> None:
        async with self._calls.answer("InspectSession", context, request) as call:
            if request.session_id:
                self._calls.permit(call, READING)
            self._sessions.check_model(request.model)
            lengths.check_inspection(request, len(self._inspection.layout.tensors))
            caller = Caller(call.owner, request.session_id, timeline=call.timeline)
            moments = self._inspection.inspect(caller, convert.to_inspection(request))
            async with aclosing(moments):
                num_read = 0
                async for moment in moments:
                    num_read += moment.token is not None
                    call.facts["num_input_tokens"] = num_read
                    await call.write(context, convert.from_inspected(moment, self._sessions.tokenizer))

    async def WatchSessions(self, request: wire.WatchSessionsRequest, context: Context) -> None:
        async with self._calls.answer("WatchSessions", context, request) as call:
            with self._operations.watch(call.owner) as events:
                await call.send(context.send_initial_metadata, ())  # from here on, no event is missed
                call.is_waiting = True  # for events, which may never come
                async for event in events:
                    call.is_waiting = False
                    await call.write(context, convert.from_event(event))
                    call.is_waiting = True

    async def _describe_all(self, rows: Sequence[Row]) -> list[wire.Session]:
        """Describes the rows slice by slice, so that other work runs in between."""
        described: list[wire.Session] = []
        for first in range(0, len(rows), _ROWS_PER_SLICE):
            described += map(self._describe, rows[first : first + _ROWS_PER_SLICE])
            await asyncio.sleep(0)
        return described

    def _describe(self, row: Row) -> wire.Session:
        return convert.from_row(row, self._sessions.manifest, self._operations.durable_position(row))

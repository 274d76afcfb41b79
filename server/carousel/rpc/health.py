"""The gRPC health service. The servicer of `grpc_health` holds a lock while it writes to a watcher, and forgets all
watchers of a service when one leaves. There, a client that does not read would block a status change, and a client that
comes and goes would hide a drain from load balancers."""

import asyncio
import collections

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from carousel.errors import Overloaded
from carousel.rpc.calls import Context
from carousel.rpc.errors import to_status

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_RETRY_SECONDS = 1.0
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """The health service. Setting a status never waits, and wakes the watchers only when the status changes."""

    def __init__(self, max_watches: int) -> None:
        """One connection has at most `max_watches` watches. A watch stays open as long as its client wants."""
        self._max_watches = max_watches
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()  # a new one after each change
        self._num_watches: collections.Counter[str] = collections.Counter()  # by connection

    def set(self, service: str, status: int) -> None:
        if self._statuses.get(service) != status:
            self._statuses[service] = status
            self._changed.set()
            self._changed = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        peer = context.peer()
        if self._num_watches[peer] >= self._max_watches:
            text = f"{self._max_watches} watches of this connection are open"
            full = Overloaded(text, limit="max_health_watches", retry_seconds=_RETRY_SECONDS)
            await context.abort_with_status(rpc_status.to_status(to_status(full)))
        self._num_watches[peer] += 1
        try:
            await self._tell(request.service, context)
        finally:
            self._num_watches[peer] -= 1
            if not self._num_watches[peer]:
                del self._num_watches[peer]

    async def _tell(self, service: str, context: Context) -> None:
        """Sends the status now and after each change, without end. A slow reader misses changes in between."""
        told: int | None = None
        while True:
            changed = self._changed
            status = self._statuses.get(service, _UNKNOWN)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            await changed.wait()

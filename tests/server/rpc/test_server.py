"""The server's port: health, reflection, shutdown, metrics, and addresses that cannot be used."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.bounds import make_connection_bounds
from tests.server.hostile_peer import call_unread
from tests.server.rpc.served_house import Code, drain, refusal, served, text, until

from carousel.errors import SettingsInvalid
from carousel.rpc.calls import RpcCalls
from carousel.rpc.server import RpcServer
from carousel.rpc.servicer import LanguageModelServicer
from carousel.rpc.session_servicer import SessionsServicer
from carousel.v1 import language_model_pb2 as wire


async def test_shutdown_ends_every_open_call_with_unavailable() -> None:
    """A Generate that runs and an idle Predict both end with UNAVAILABLE and a reason; new calls are refused."""
    async with served() as house:
        idle = house.model.Predict()
        await idle.write(wire.PredictRequest())
        await idle.read()
        house.gate.clear()
        running = asyncio.create_task(refusal(house.model.Generate(wire.GenerateRequest(input=text("a")))))
        await until(lambda: not house.world.is_idle)
        await house.world.engine.drain(0)
        await house.calls.finish(5)
        house.gate.set()
        code, _, details = await running
        assert (code, details["ErrorInfo"].reason) == (Code.UNAVAILABLE, "SHUTTING_DOWN")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            assert await idle.read() != grpc.aio.EOF
        assert error.value.code() is Code.UNAVAILABLE
        code, _, details = await refusal(house.model.Generate(wire.GenerateRequest(input=text("a"))))
        assert (code, details["ErrorInfo"].reason) == (Code.UNAVAILABLE, "SHUTTING_DOWN")
        print(house.world.engine, house.world.value("consumed_tokens_total"))
        assert house.calls._open == {}


async def test_health_follows_readiness() -> None:
    """Health is SERVING when ready, for the whole and for each service, and otherwise NOT_SERVING; unknown services are
    unknown."""
    async with served() as house:
        health = health_pb2_grpc.HealthStub(house.channel)
        names = ("", "carousel.v1.LanguageModel", "carousel.v1.Sessions")
        for is_ready, status in ((True, health_pb2.HealthCheckResponse.SERVING), (False, 2)):
            await house.server.set_ready(is_ready=is_ready)
            for name in names:
                assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == status
        code, *_ = await _code_of(health.Check(health_pb2.HealthCheckRequest(service="other")))
        assert code is Code.NOT_FOUND


async def test_a_watcher_of_health_who_does_not_read_stops_nobody() -> None:
    """Statuses are set and reach other watchers while one has left no room for his."""
    async with served() as house:
        with call_unread(house.server.address, b"grpc.health.v1.Health/Watch"):
            await asyncio.sleep(0.2)
            async with asyncio.timeout(5):
                await house.server.set_ready(is_ready=False)
            health = health_pb2_grpc.HealthStub(house.channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == 2


async def test_a_watcher_of_health_who_leaves_takes_nobody_along() -> None:
    """The other watchers hear of the next change."""
    async with served() as house:
        health = health_pb2_grpc.HealthStub(house.channel)
        staying, leaving = (health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2))
        assert [(await staying.read()).status, (await leaving.read()).status] == [1, 1]
        leaving.cancel()
        await asyncio.sleep(0.1)
        await house.server.set_ready(is_ready=False)
        async with asyncio.timeout(5):
            assert (await staying.read()).status == 2


async def test_watches_of_health_are_bounded() -> None:
    """A connection has a bounded number, the refusal names it, and a watch that ends makes room."""
    async with served(max_health_watches=3) as house:
        health = health_pb2_grpc.HealthStub(house.channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        assert [(await watch.read()).status for watch in watches] == [1] * 3
        code, _, details = await refusal(health.Watch(health_pb2.HealthCheckRequest(), timeout=5))
        assert (code, details["ErrorInfo"].metadata["limit"]) == (Code.RESOURCE_EXHAUSTED, "max_health_watches")
        watches[0].cancel()
        await asyncio.sleep(0.1)
        assert (await health.Watch(health_pb2.HealthCheckRequest()).read()).status == 1


async def _code_of(call: Any) -> tuple[grpc.StatusCode]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return (error.value.code(),)


async def test_reflection_lists_the_services() -> None:
    """A client without the proto files can find them."""
    async with served() as house:
        stub = reflection_pb2_grpc.ServerReflectionStub(house.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = (await drain(stub.ServerReflectionInfo(iter([request]))))[0]
        names = {service.name for service in answer.list_services_response.service}
        assert {"carousel.v1.LanguageModel", "carousel.v1.Sessions", "grpc.health.v1.Health"} <= names


async def test_a_port_that_is_taken_is_a_settings_error() -> None:
    """The error names the address where another server listens."""
    async with served() as house:
        other = RpcServer(
            LanguageModelServicer(house.world.sessions, wire.Model(), RpcCalls(house.calls)),
            SessionsServicer(
                house.world.sessions, house.world.operations, house.world.inspection, RpcCalls(house.calls)
            ),
            RpcCalls(house.calls).admit,
            make_connection_bounds(1000),
        )
        with pytest.raises(SettingsInvalid, match=f"listen: .*{house.server.address}: another server is there$"):
            await other.start(house.server.address)


@pytest.mark.parametrize("address", ["203.0.113.7:50051", "[2001:db8::7]:50051", "no-such-host.invalid:50051"])
async def test_an_address_that_is_not_ours_is_told_as_the_system_tells_it(address: str) -> None:
    """The error suspects no other server where there cannot be one."""
    async with served() as house:
        other = RpcServer(
            LanguageModelServicer(house.world.sessions, wire.Model(), RpcCalls(house.calls)),
            SessionsServicer(
                house.world.sessions, house.world.operations, house.world.inspection, RpcCalls(house.calls)
            ),
            RpcCalls(house.calls).admit,
            make_connection_bounds(1000),
        )
        with pytest.raises(SettingsInvalid) as refused:
            await other.start(address)
    assert str(refused.value).startswith(f"listen: cannot bind {address}: ")
    assert "another server" not in str(refused.value)
    assert "not free" not in str(refused.value)


async def test_every_call_is_counted_by_method_and_code() -> None:
    """The metrics tell requests and latency apart by method and code, and no call is left running."""
    async with served() as house:
        await house.model.ListModels(wire.ListModelsRequest())
        await refusal(house.model.GetModel(wire.GetModelRequest(model="x")))
        value = house.world.value
        assert value("requests_total", method="ListModels", code="OK") == 1
        assert value("requests_total", method="GetModel", code="NOT_FOUND") == 1
        assert value("request_seconds_count", method="GetModel", code="NOT_FOUND") == 1
        assert value("running_requests", method="GetModel") == 0

"""Every call that a transport takes stands in the table, with what it needs."""

from typing import cast
from unittest.mock import Mock

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client import CollectorRegistry
from starlette.routing import Route
from tests.server.rpc.desk import open_desk

from carousel.identity.scopes import CALLS, HEALTH, HTTP_CALLS, OF_SERVER, PROBES, REFLECTION, SCOPES, Scope
from carousel.readiness import Readiness, StoreHealth
from carousel.sessions.calls import Calls
from carousel.v1 import language_model_pb2, sessions_pb2
from carousel.web.app import make_app
from carousel.web.door import Door
from carousel.web.json_api.app import make_json_routes
from carousel.web.openai.app import Handlers, make_openai_routes

OURS = [
    service for module in (language_model_pb2, sessions_pb2) for service in module.DESCRIPTOR.services_by_name.values()
]


def test_every_method_of_our_services_needs_a_scope() -> None:
    """No more and no fewer than the contract has, and no two of one name."""
    methods = [method.name for service in OURS for method in service.methods]
    assert len(methods) == len(set(methods))
    assert CALLS.keys() == set(methods)


async def test_every_service_that_is_served_is_ours_or_in_the_table() -> None:
    """As reflection lists them."""
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    path = f"/{REFLECTION}/ServerReflectionInfo"
    async with open_desk() as desk:
        asked = desk.channel.stream_stream(
            path,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(iter([request]))
        (answer,) = [one async for one in asked]
    served = {service.name for service in answer.list_services_response.service}
    assert served == {service.full_name for service in OURS} | {HEALTH, REFLECTION}


def test_the_other_services_have_their_own_names() -> None:
    """As their contracts say."""
    assert health_pb2.DESCRIPTOR.services_by_name["Health"].full_name == HEALTH
    assert reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name == REFLECTION


def test_every_path_of_http_needs_a_scope() -> None:
    """No more and no fewer than there are."""
    app = make_app(CollectorRegistry(), Readiness(StoreHealth(lambda is_up: None), needs_store=False), lambda *_: None)
    paths = {route.path for route in app.routes if isinstance(route, Route)}
    assert len(paths) == len(app.routes)
    assert OF_SERVER.keys() == paths | {HEALTH, REFLECTION}
    assert paths >= PROBES


def test_every_path_for_callers_needs_a_scope() -> None:
    """OpenAI's and our own. A path with a model's name is that of the list."""
    door = Door(cast(Calls, None), 0, {})
    theirs = make_openai_routes(door, cast(Handlers, Mock()))
    own = make_json_routes(door, Mock(), Mock(), {}, Mock())
    paths = {route.path.removesuffix("/{model:path}") for route in theirs} | {route.path for route in own}
    assert HTTP_CALLS.keys() == paths


@pytest.mark.parametrize("call", SCOPES)
def test_admin_may_make_every_call(call: str) -> None:
    """There is a scope for each, and it is one that exists."""
    assert SCOPES[call]
    assert SCOPES[call] <= frozenset(Scope)


def test_scopes_have_the_names_of_the_file() -> None:
    """Files out there use them."""
    assert sorted(Scope) == ["admin", "generate", "metrics", "score", "sessions"]

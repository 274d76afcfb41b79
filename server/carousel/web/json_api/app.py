"""Carousel's own routes over HTTP: what gRPC offers, for pages and scripts. The table of scopes has their paths."""

from collections.abc import Mapping
from typing import Any

from starlette.routing import Route

from carousel.sessions.calls import Call, Calls
from carousel.sessions.composition import SessionService
from carousel.web.door import Door, answer_json
from carousel.web.exchange import Exchange
from carousel.web.json_api.figures import TellFigures
from carousel.web.json_api.inspect_handler import InspectHandler
from carousel.web.json_api.session_handlers import SessionHandlers
from carousel.web.json_api.turns import TurnHandlers

PREFIX = "/carousel/v1"
PARAMS = {  # names of fields over HTTP
    "k": "num_candidates",
    "g": "num_top",
    "request_id": "Idempotency-Key",
    "ttl": "ttl_seconds",
}


def make_json_routes(
    door: Door,
    calls: Calls,
    sessions: SessionService,
    model: Mapping[str, Any],
    figures: TellFigures,
) -> list[Route]:
    """`model` describes the model; `figures` are those of the whole server."""
    turns, lives = TurnHandlers(sessions.turns), SessionHandlers(sessions.operations)
    inspector = InspectHandler(sessions.inspection, calls, sessions.turns.tokenizer)
    of_one = "/sessions/{session_id}"

    async def describe_model(call: Call, exchange: Exchange, content: bytes) -> None:
        await answer_json(call, exchange, model)

    async def tell_figures(call: Call, exchange: Exchange, content: bytes) -> None:
        await answer_json(call, exchange, await figures())

    def route(path: str, handle: Any, *methods: str, is_counted: bool = True) -> Route:
        endpoint = door.endpoint(PREFIX + path, handle, is_counted=is_counted)
        return Route(PREFIX + path, endpoint, methods=list(methods))

    return [
        route("/model", describe_model, "GET", is_counted=False),
        route("/figures", tell_figures, "GET", is_counted=False),
        route("/predict", turns.predict, "POST"),
        route("/score", turns.score, "POST"),
        route("/inspect", inspector.inspect, "POST"),
        route("/tree", lives.tree, "GET"),
        route("/import", lives.import_state, "POST"),
        route("/sessions", lives.list_or_create, "GET", "POST"),
        route(of_one, lives.get_or_delete, "GET", "DELETE"),
        route(of_one + "/history", lives.history, "GET"),
        route(of_one + "/fork", lives.fork, "POST"),
        route(of_one + "/rewind", lives.rewind, "POST"),
        route(of_one + "/checkpoint", lives.save_checkpoint, "POST"),
        route(of_one + "/export", lives.export, "POST"),
    ]

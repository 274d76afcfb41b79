"""The address for programs and people over HTTP: OpenAI's routes, Carousel's own, and the page."""

from collections.abc import Collection, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from carousel.sessions.calls import Calls
from carousel.sessions.composition import SessionService
from carousel.web import json_errors
from carousel.web.door import Door, Guard
from carousel.web.json_api import app as json_api
from carousel.web.json_api.figures import TellFigures
from carousel.web.openai import app as openai
from carousel.web.openai import names
from carousel.web.page_files import make_page_routes


def make_front(
    sessions: SessionService,
    calls: Calls,
    figures: TellFigures,
    model: Mapping[str, Any],
    *,
    max_bytes: int,
    hosts: Collection[str],
    started: int,
    has_page: bool,
) -> Any:
    """`figures` are those of the whole server; `model` describes the model. `max_bytes` bounds a body; `hosts` are the
    server's names; `started` is when it did, in seconds since 1970."""
    handlers = openai.Handlers(sessions.turns, sessions.operations, calls, started)
    routes = [
        *openai.make_openai_routes(Door(calls, max_bytes, names.PARAMS), handlers),
        *json_api.make_json_routes(Door(calls, max_bytes, json_api.PARAMS), calls, sessions, model, figures),
        *(make_page_routes() if has_page else ()),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={404: _refuse_route, 405: _refuse_route}), hosts)


async def _refuse_route(request: Request, error: Exception) -> Response:
    text = f"there is no {request.method} {request.url.path} here; see /v1/models, /v1/completions and /v1/responses"
    status, content, headers = json_errors.refusal(404, text, "not_found")
    return Response(content, status, headers)

"""The page's own files. They are the same for everybody and say nothing of any session, so they need no identity."""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_INDEX = "index.html"
# A browser runs what has the right type alone, and machines differ in what they say of a file's name.
_KINDS = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
# A browser loads nothing but these files, and runs no script or style that stands in a document.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def make_page_routes() -> list[Route]:
    """Reads all files now: what is served is what was there at the start."""
    contents = {one.name: one.read_bytes() for one in files("carousel.web").joinpath("page").iterdir()}
    return [_route(f"/page/{name}", name, content) for name, content in sorted(contents.items())] + [
        _route("/", _INDEX, contents[_INDEX])
    ]


def _route(path: str, name: str, content: bytes) -> Route:
    kind = _KINDS[name.rpartition(".")[2]]

    async def send(request: Request) -> Response:
        return Response(content, headers=_HEADERS | {"content-type": f"{kind}; charset=utf-8"})

    return Route(path, send, methods=["GET"])

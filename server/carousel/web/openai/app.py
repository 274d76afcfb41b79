"""The routes that OpenAI's clients know."""

from starlette.routing import Route

from carousel.sessions.calls import Call, Calls
from carousel.sessions.operations import SessionOperations
from carousel.sessions.service import Sessions
from carousel.web.bodies import parse
from carousel.web.door import Door, Named, answer_json, request_id_of, session_id_of
from carousel.web.exchange import Exchange
from carousel.web.openai.bodies import CompletionBody, DetokenizeBody, TokenizeBody
from carousel.web.openai.chat_bodies import ChatBody
from carousel.web.openai.chats import Chats
from carousel.web.openai.completions import Completions

PARAMS = {  # OpenAI's names of fields
    "input": "prompt",
    "num_log_probabilities": "logprobs",
    "num_candidates": "logprobs",
    "stop_ids": "stop_token_ids",
    "request_id": "Idempotency-Key",
    "ids": "tokens",
}


def make_openai_routes(door: Door, handlers: "Handlers") -> list[Route]:
    """The paths are those of the table of scopes."""
    return [
        Route("/v1/models", door.endpoint("/v1/models", handlers.list_models, is_counted=False), methods=["GET"]),
        Route(
            "/v1/models/{model:path}",
            door.endpoint("/v1/models", handlers.get_model, is_counted=False),
            methods=["GET"],
        ),
        Route("/v1/completions", door.endpoint("/v1/completions", handlers.complete), methods=["POST"]),
        Route("/v1/chat/completions", door.endpoint("/v1/chat/completions", handlers.chat), methods=["POST"]),
        Route(
            "/tokenizer_info",
            door.endpoint("/tokenizer_info", handlers.describe_tokenizer, is_counted=False),
            methods=["GET"],
        ),
        Route("/tokenize", door.endpoint("/tokenize", handlers.tokenize), methods=["POST"]),
        Route("/detokenize", door.endpoint("/detokenize", handlers.detokenize), methods=["POST"]),
    ]


class Handlers:
    """Each takes an admitted call and the body of its request."""

    def __init__(self, sessions: Sessions, operations: SessionOperations, calls: Calls, started: int) -> None:
        self._sessions = sessions
        self._completions = Completions(sessions, operations, calls)
        self._chats = Chats(sessions)
        self._model = {"id": sessions.manifest.name, "object": "model", "created": started, "owned_by": "carousel"}

    async def list_models(self, call: Call, exchange: Exchange, content: bytes) -> None:
        await answer_json(call, exchange, {"object": "list", "data": [self._model]})

    async def get_model(self, call: Call, exchange: Exchange, content: bytes) -> None:
        self._sessions.check_model(exchange.request.path_params["model"])
        await answer_json(call, exchange, self._model)

    async def complete(self, call: Call, exchange: Exchange, content: bytes) -> None:
        body = parse(CompletionBody, content)
        body = body.model_copy(update={"session_id": session_id_of(exchange, body.session_id)})
        body.check()
        request_id = request_id_of(exchange, body.session_id)
        call.request = call.named = Named(body.session_id, request_id)
        await self._completions.run(call, exchange, body, request_id)

    async def chat(self, call: Call, exchange: Exchange, content: bytes) -> None:
        body = parse(ChatBody, content)
        body.model_copy(update={"session_id": session_id_of(exchange, body.session_id)}).check()
        await self._chats.run(call, exchange, body)

    async def describe_tokenizer(self, call: Call, exchange: Exchange, content: bytes) -> None:
        """Says which text stands before every sequence, for clients that score texts without a context."""
        tokenizer = self._sessions.tokenizer
        start = tokenizer.decode([tokenizer.start_id])
        await answer_json(
            call, exchange, {"tokenizer_class": str(tokenizer.kind), "eos_token": start, "bos_token": start}
        )

    async def tokenize(self, call: Call, exchange: Exchange, content: bytes) -> None:
        body = parse(TokenizeBody, content)
        self._sessions.check_model(body.model)
        ids = await self._sessions.tokenize(call.owner, body.prompt)
        await answer_json(call, exchange, {"tokens": ids, "count": len(ids)})

    async def detokenize(self, call: Call, exchange: Exchange, content: bytes) -> None:
        body = parse(DetokenizeBody, content)
        self._sessions.check_model(body.model)
        await answer_json(call, exchange, {"prompt": await self._sessions.detokenize(call.owner, body.tokens)})

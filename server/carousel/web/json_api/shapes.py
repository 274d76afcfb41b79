"""What answers look like: the domain's values as JSON objects, with the field names of the gRPC contract."""

import math
from collections.abc import Iterable
from typing import Any

from carousel.bundle.manifest import Manifest
from carousel.bundle.tokenizer import Tokenizer
from carousel.sessions.inspection import InspectedToken
from carousel.sessions.operations import History
from carousel.sessions.requests import Prediction, ScoredToken, ScoreTotals
from carousel.settings import Settings
from carousel.state.store import Row
from carousel.turns import Candidate
from carousel.web.spelling import spell

_LIMITS = (
    "max_input_tokens",
    "max_generated_tokens",
    "max_message_bytes",
    "penalty_window",
    "max_input_bytes",
    "max_answer_items",
    "max_stop_ids",
)


def of_model(manifest: Manifest, provider: str, settings: Settings) -> dict[str, Any]:
    tensors = [{"name": one.name, "shape": list(one.shape), "dtype": one.dtype} for one in manifest.state.tensors]
    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "cell": manifest.cell,
        "block": manifest.block,
        "num_layers": manifest.num_layers,
        "hidden_size": manifest.hidden_size,
        "vocabulary_size": manifest.vocabulary_size,
        "num_parameters": manifest.num_parameters,
        "precision": manifest.precision,
        "tokenizer": str(manifest.tokenizer_kind),
        "state_bytes": manifest.state.num_bytes,
        "state": tensors,
        "provider": provider,
        "inspect": settings.inspect,
        "has_chat_template": manifest.chat is not None,
        "limits": {name: getattr(settings, name) for name in _LIMITS},
        "training": dict(manifest.training),
    }


def of_prediction(found: Prediction, tokenizer: Tokenizer) -> dict[str, Any]:
    words = [{"text": one.text, "log_probability": one.log_probability} for one in found.words]
    candidates = of_candidates(found.candidates, tokenizer)
    return {"candidates": candidates, "words": words, "position": found.standing.position}


def of_candidates(candidates: Iterable[Candidate], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    return [
        {"id": one.id, "text": spell(tokenizer, one.id), "log_probability": one.log_probability} for one in candidates
    ]


def of_totals(totals: ScoreTotals) -> dict[str, Any]:
    perplexity = totals.perplexity
    return {
        "num_tokens": totals.num_tokens,
        "log_probability": totals.log_probability,
        "num_hits": totals.num_hits,
        "perplexity": perplexity if math.isfinite(perplexity) else None,  # JSON has no infinity
        "position": totals.standing.position,
    }


def of_scored(token: ScoredToken, tokenizer: Tokenizer) -> dict[str, Any]:
    """`text` is what the token completes: the texts of all tokens make the whole text."""
    found = {
        "id": token.id,
        "text": token.text,
        "log_probability": token.log_probability,
        "rank": token.rank,
        "is_hit": token.is_hit,
    }
    return found | ({"candidates": of_candidates(token.candidates, tokenizer)} if token.candidates else {})


def of_inspected(token: InspectedToken, tokenizer: Tokenizer) -> dict[str, Any]:
    found = {"id": token.id, "text": token.text, "log_probability": token.log_probability, "rank": token.rank}
    return found | ({"candidates": of_candidates(token.candidates, tokenizer)} if token.candidates else {})


def of_row(row: Row, durable_position: int) -> dict[str, Any]:
    """Times are seconds since 1970."""
    return {
        "session_id": row.id,
        "position": row.position,
        "durable_position": durable_position,
        "create_time": row.created_at,
        "update_time": row.updated_at,
        "expire_time": row.expires_at,
    }


def of_history(history: History, durable_position: int) -> dict[str, Any]:
    origin = history.origin
    return of_row(history.row, durable_position) | {
        "positions": list(history.positions),
        "checkpoints": history.marks,
        "origin": {"session_id": origin.session_id, "position": origin.position} if origin is not None else None,
    }

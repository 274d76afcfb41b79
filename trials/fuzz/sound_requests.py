"""Valid requests: live sessions, plausible points, repeated request ids. The accidents come later."""

import random
from collections.abc import Callable, Mapping
from typing import Any, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from carousel.v1 import language_model_pb2 as wire
from carousel.v1 import sessions_pb2, types_pb2

POOL = tuple(f"pool-{number}" for number in range(24))  # sessions that are kept alive
MARKS = ("mark-0", "mark-1")
_TEXTS = ("", "The carousel", " turns", "süß", "日本", "\n", "a b c " * 20)
_SERVICES = ("", "carousel.v1.LanguageModel", "carousel.v1.Sessions")


def draw_request(dice: random.Random, name: str) -> Message:
    return _RECIPES[name](dice)


def draw_request_id(dice: random.Random) -> str:
    """Usually none; otherwise a new id, or one of a few that come again and again."""
    if dice.random() < 0.6:
        return ""
    return f"again-{dice.randrange(200)}" if dice.random() < 0.5 else f"once-{dice.getrandbits(60):x}"


def _input(dice: random.Random) -> types_pb2.Input:
    if dice.random() < 0.1:
        return types_pb2.Input()
    if dice.random() < 0.5:
        return types_pb2.Input(text=dice.choice(_TEXTS))
    ids = [dice.randrange(256) for _ in range(dice.choice((0, 1, 3, 40, 300)))]
    return types_pb2.Input(tokens=types_pb2.TokenIds(ids=ids))


def _place(dice: random.Random) -> dict[str, Any]:
    """A session and perhaps a request id, or neither."""
    if dice.random() < 0.3:
        return {}
    return {"session_id": dice.choice(POOL), "request_id": draw_request_id(dice)}


def _sampling(dice: random.Random) -> wire.Sampling:
    sampling = wire.Sampling(temperature=dice.choice((0, 0.7, 1, 100)), seed=dice.getrandbits(64))
    for name, value in (("top_k", 5), ("top_p", 0.9), ("min_p", 0.05), ("repetition_penalty", 1.3)):
        if dice.random() < 0.2:
            setattr(sampling, name, value)
    for name in ("presence_penalty", "frequency_penalty"):
        if dice.random() < 0.2:
            setattr(sampling, name, dice.uniform(-2, 2))
    for _ in range(dice.choice((0, 0, 1, 20))):
        sampling.logit_bias[dice.randrange(256)] = dice.uniform(-100, 100)
    return sampling


def _generate(dice: random.Random) -> Message:
    request = wire.GenerateRequest(
        input=_input(dice), sampling=_sampling(dice), max_tokens=dice.choice((0, 1, 2, 8, 60)), **_place(dice)
    )
    request.stop.extend(dice.choice(("\n", "th", "süß", "zzz")) for _ in range(dice.choice((0, 0, 1, 3))))
    request.stop_ids.extend(dice.randrange(256) for _ in range(dice.choice((0, 0, 1, 60))))
    request.num_log_probabilities = dice.choice((0, 0, 1, 5))
    request.content = cast(wire.GenerateRequest.Content, dice.randrange(4))
    if dice.random() < 0.2:
        request.n = dice.choice((1, 2, 4))
    return request


def _predict(dice: random.Random) -> Message:
    request = wire.PredictRequest(input=_input(dice), k=dice.choice((0, 1, 10, 256)), **_place(dice))
    if dice.random() < 0.3:
        request.word_prefix = dice.choice(("", " ca", "x", "\n", "ü"))
        request.num_words = dice.choice((0, 1, 5))
    return request


def _predict_many(dice: random.Random) -> Message:
    """A few repeated tags, most items plain; some are closed, some are empty."""
    request = wire.PredictManyRequest()
    tags = (0, 1, 2, dice.getrandbits(64))
    for _ in range(dice.choice((0, 1, 3, 8, 40))):
        item = request.items.add(tag=dice.choice(tags))
        if dice.random() < 0.1:
            item.close = True
        elif dice.random() < 0.3:
            item.request.CopyFrom(cast(wire.PredictRequest, _predict(dice)))
        elif dice.random() < 0.95:
            item.request.input.tokens.ids.append(dice.randrange(256))
            item.request.session_id = dice.choice(POOL)
            item.request.request_id = draw_request_id(dice)
    return request


def _score(dice: random.Random) -> Message:
    return wire.ScoreRequest(input=_input(dice), g=dice.choice((1, 10, 256)), **_place(dice))


def _detokenize(dice: random.Random) -> Message:
    return wire.DetokenizeRequest(ids=[dice.randrange(256) for _ in range(dice.choice((0, 1, 7, 300)))])


def _create(dice: random.Random) -> Message:
    new_id = dice.choice(("", "", *POOL, f"new-{dice.getrandbits(40):x}"))
    return sessions_pb2.CreateSessionRequest(session_id=new_id, request_id=draw_request_id(dice))


def _list(dice: random.Random) -> Message:
    return sessions_pb2.ListSessionsRequest(page_size=dice.choice((0, 1, 3, 1000)))


def _delete(dice: random.Random) -> Message:
    gone = dice.choice(POOL[:4]) if dice.random() < 0.5 else f"new-{dice.randrange(9)}"
    return sessions_pb2.DeleteSessionRequest(session_id=gone, request_id=draw_request_id(dice))


def draw_point(dice: random.Random) -> sessions_pb2.Point:
    match dice.randrange(6):
        case 0:
            return sessions_pb2.Point(position=dice.choice((0, 0, 1, 3, 40)))
        case 1:
            return sessions_pb2.Point(checkpoint=dice.choice(MARKS))
        case _:
            return sessions_pb2.Point()


def _fork(dice: random.Random) -> Message:
    request = sessions_pb2.ForkSessionRequest(session_id=dice.choice(POOL), point=draw_point(dice))
    request.count = dice.choice((0, 1, 2))
    if dice.random() < 0.3:
        names = [f"fork-{dice.getrandbits(40):x}" for _ in range(max(1, request.count))]
        request.new_session_ids.extend(names)
    request.request_id = draw_request_id(dice)
    return request


def _rewind(dice: random.Random) -> Message:
    return sessions_pb2.RewindSessionRequest(
        session_id=dice.choice(POOL), point=draw_point(dice), request_id=draw_request_id(dice)
    )


def _mark(dice: random.Random) -> Message:
    return sessions_pb2.SaveCheckpointRequest(
        session_id=dice.choice(POOL), checkpoint=dice.choice(MARKS), request_id=draw_request_id(dice)
    )


def _export(dice: random.Random) -> Message:
    request = sessions_pb2.ExportSessionRequest(session_id=dice.choice(POOL), point=draw_point(dice))
    if dice.random() < 0.5:
        request.ttl.CopyFrom(Duration(seconds=dice.choice((1, 3600)), nanos=dice.choice((0, 5))))
    return request


def _inspect(dice: random.Random) -> Message:
    request = sessions_pb2.InspectSessionRequest(input=_input(dice), num_candidates=dice.choice((0, 0, 3, 64)))
    if dice.random() < 0.7:
        request.session_id = dice.choice(POOL)
        request.point.CopyFrom(draw_point(dice))
    if dice.random() < 0.3:
        request.tensors.extend(dice.choice((("h_0",), ("none",), ("h_0", "h_0"))))
    return request


def _reflect(dice: random.Random) -> Message:
    request = reflection_pb2.ServerReflectionRequest(host="")
    match dice.randrange(4):
        case 0:
            request.list_services = ""
        case 1:
            request.file_by_filename = dice.choice(("carousel/v1/sessions.proto", "none.proto"))
        case 2:
            request.file_containing_symbol = dice.choice(("carousel.v1.Sessions", "carousel.v1.Input", "no.Symbol"))
        case _:
            request.all_extension_numbers_of_type = "carousel.v1.Input"
    return cast(Message, request)


_RECIPES: Mapping[str, Callable[[random.Random], Message]] = {
    "Generate": _generate,
    "Predict": _predict,
    "PredictMany": _predict_many,
    "Score": _score,
    "Tokenize": lambda dice: wire.TokenizeRequest(text=dice.choice(_TEXTS)),
    "Detokenize": _detokenize,
    "ListModels": lambda dice: wire.ListModelsRequest(),
    "GetModel": lambda dice: wire.GetModelRequest(model=dice.choice(("", "tiny"))),
    "CreateSession": _create,
    "GetSession": lambda dice: sessions_pb2.GetSessionRequest(session_id=dice.choice(POOL)),
    "ListSessions": _list,
    "DeleteSession": _delete,
    "ForkSession": _fork,
    "RewindSession": _rewind,
    "SaveCheckpoint": _mark,
    "GetHistory": lambda dice: sessions_pb2.GetHistoryRequest(session_id=dice.choice(POOL)),
    "ExportSession": _export,
    "ImportSession": lambda dice: sessions_pb2.ImportSessionRequest(request_id=draw_request_id(dice)),
    "InspectSession": _inspect,
    "WatchSessions": lambda dice: sessions_pb2.WatchSessionsRequest(),
    "Check": lambda dice: health_pb2.HealthCheckRequest(service=dice.choice(_SERVICES)),
    "Watch": lambda dice: health_pb2.HealthCheckRequest(service=dice.choice(_SERVICES)),
    "ServerReflectionInfo": _reflect,
}

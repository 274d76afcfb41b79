"""The bodies of Carousel's own routes. Fields have the names of the gRPC contract."""

import binascii
from base64 import b64decode
from typing import Annotated

from pydantic import Field

from carousel.errors import InvalidRequest
from carousel.sessions.inspection import InspectionRequest
from carousel.sessions.operations import Point
from carousel.sessions.requests import Input, PredictionRequest, ScoringRequest
from carousel.web.bodies import Body, Count, Counts, Texts

Position = Annotated[int, Field(ge=0, lt=2**63)]


class TextBody(Body):
    """A text or token ids, for a session or for none."""

    text: str | None = None
    tokens: Counts | None = None
    session_id: str = ""

    @property
    def input(self) -> Input:
        if self.text is not None and self.tokens is not None:
            raise InvalidRequest("tokens", "is for a request without text")
        return self.text if self.text is not None else tuple(self.tokens or ())


class PointBody(Body):
    """A point in a session's past: a position, a checkpoint, or (neither) the present."""

    position: Position | None = None
    checkpoint: str = ""

    @property
    def point(self) -> Point:
        if self.position is not None and self.checkpoint:
            raise InvalidRequest("checkpoint", "is for a request without a position")
        return Point(self.position, self.checkpoint)


class PredictBody(TextBody):
    """POST /carousel/v1/predict."""

    expected_position: Position | None = None
    num_candidates: Count = PredictionRequest().num_candidates
    word_prefix: str | None = None
    num_words: Count = PredictionRequest().num_words

    @property
    def request(self) -> PredictionRequest:
        return PredictionRequest(self.input, self.num_candidates, self.word_prefix, self.num_words)


class ScoreBody(TextBody):
    """POST /carousel/v1/score."""

    expected_position: Position | None = None
    num_top: Count = ScoringRequest().num_top
    num_candidates: Count = 0

    @property
    def request(self) -> ScoringRequest:
        return ScoringRequest(self.input, self.num_top, self.num_candidates)


class InspectBody(TextBody, PointBody):
    """POST /carousel/v1/inspect."""

    tensors: Texts = Field(default_factory=list)
    num_candidates: Count = 0

    @property
    def request(self) -> InspectionRequest:
        return InspectionRequest(self.input, self.point, tuple(self.tensors), self.num_candidates)


class CreateBody(Body):
    """POST /carousel/v1/sessions."""

    session_id: str = ""


class ForkBody(PointBody):
    """POST /carousel/v1/sessions/{session_id}/fork."""

    count: Count = 0
    new_session_ids: Texts = Field(default_factory=list)


class RewindBody(PointBody):
    """POST /carousel/v1/sessions/{session_id}/rewind."""

    expected_position: Position | None = None


class CheckpointBody(Body):
    """POST /carousel/v1/sessions/{session_id}/checkpoint."""

    checkpoint: str


class ExportBody(PointBody):
    """POST /carousel/v1/sessions/{session_id}/export."""

    ttl_seconds: float = 86_400.0


class ImportBody(Body):
    """POST /carousel/v1/import."""

    state: str  # base64
    session_id: str = ""

    @property
    def blob(self) -> bytes:
        try:
            return b64decode(self.state, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRequest("state", "is not base64") from error

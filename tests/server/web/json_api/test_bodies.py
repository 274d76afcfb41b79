"""A wrong body is refused at its first wrong item: many of them must not hold up the event loop."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from carousel.errors import InvalidRequest
from carousel.web.bodies import Body, parse
from carousel.web.json_api.bodies import ForkBody, InspectBody, PredictBody, ScoreBody

MANY = 2000


@pytest.mark.parametrize(
    ("body", "field", "wrong"),
    [
        (PredictBody, "tokens", "a"),
        (ScoreBody, "tokens", -1),
        (InspectBody, "tensors", 1),
        (ForkBody, "new_session_ids", 1),
    ],
)
def test_a_list_ends_at_its_first_wrong_item(body: type[Body], field: str, wrong: Any) -> None:
    values = {field: [wrong] * MANY}
    with pytest.raises(ValidationError) as found:
        body.model_validate(values)
    assert found.value.error_count() == 1
    with pytest.raises(InvalidRequest) as told:
        parse(body, json.dumps(values).encode())
    assert told.value.field == field

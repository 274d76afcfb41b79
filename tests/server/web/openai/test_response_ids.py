"""A response's id leads its owner to one end of a turn, and nobody anywhere else."""

import base64
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel.errors import SessionNotFound
from carousel.sessions.requests import Waypoint
from carousel.web.openai.response_ids import PREFIX, read_id, write_id

ENDS = st.builds(
    Waypoint,
    st.from_regex(r"[A-Za-z0-9._~-]{1,128}", fullmatch=True),
    st.integers(0, 2**62 - 1),
    st.integers(0, 2**62),
)


@given(ENDS, st.text(st.characters(codec="utf-8"), max_size=40))
def test_an_id_is_read_as_it_was_written(end: Waypoint, owner: str) -> None:
    """It is a word of a path, whatever its session is called."""
    text = write_id(owner, end)
    assert read_id(owner, text) == end
    assert text.isascii()
    assert text.replace("_", "").replace("-", "").isalnum()
    with pytest.raises(SessionNotFound):
        read_id(f"{owner}x", text)


@given(ENDS, st.integers(0, 2**32))
def test_no_changed_id_means_the_same(end: Waypoint, seed: int) -> None:
    """Each end has one spelling; every other text is something else or nothing."""
    random, text = Random(seed), write_id("ann", end)
    at = random.randrange(len(text))
    changed = text[:at] + random.choice("Aa0_-=+/ \n.") + text[at + 1 :]
    for other in (changed, text + "=", text + "A", text[:-1], text.upper(), f" {text}", f"{text}\n"):
        if other == text:
            continue
        try:
            assert read_id("ann", other) != end
        except SessionNotFound:
            continue


@pytest.mark.parametrize(
    "text",
    [
        "", "resp_", "resp_x", "resp_" + "A" * 600, "resp_" + "A" * 100_000, "resp_é", "resp_\ud83d", "msg_AAAA", "s",
        f"resp_{'0' * 32}", PREFIX + base64.urlsafe_b64encode(bytes(60)).decode().rstrip("="),
    ],
    ids=map(str, range(11)),
)  # fmt: skip
def test_other_texts_name_nothing(text: str) -> None:
    """Whatever callers send."""
    with pytest.raises(SessionNotFound) as told:
        read_id("ann", text)
    assert len(str(told.value)) < 120


@pytest.mark.parametrize("wrong", [("a/b", 1, 1), ("", 1, 1), ("s", 2**63, 1), ("s", 1, 2**63)])
def test_an_id_that_no_server_writes_names_nothing(wrong: tuple[str, int, int]) -> None:
    """Though it has the form."""
    with pytest.raises(SessionNotFound):
        read_id("ann", write_id("ann", Waypoint(*wrong)))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    """Without another error."""
    with pytest.raises(SessionNotFound):
        read_id("ann", PREFIX + base64.urlsafe_b64encode(content).decode().rstrip("="))

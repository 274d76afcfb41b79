"""Metadata that no call can carry is refused by name, and never shown."""

from typing import Any

import pytest

from carousel.client.core.metadata import check_metadata


@pytest.mark.parametrize("key", ["a", "x-y_z.0", "a-bin"])
@pytest.mark.parametrize("value", [b"", b" ~"])
def test_what_a_header_can_carry_is_taken(key: str, value: bytes) -> None:
    """Bytes pass under any key, text under a key that does not end in -bin."""
    check_metadata([(key, value), ["b", " text~"]])  # type: ignore[list-item]
    check_metadata([("a-bin", b"\xff\n")])


@pytest.mark.parametrize("key", ["", "K", "a b", ":a", "a\n", "é"])
def test_keys_that_no_header_can_have_are_refused(key: str) -> None:
    """The message has the key."""
    with pytest.raises(ValueError, match="lower-case") as caught:
        check_metadata([("a", "b"), (key, "secret")])
    assert repr(key) in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["secret\n", "secret\té", b"secret\xff", "secret\ud800", "secret\0"])
def test_values_that_no_header_can_have_are_refused(value: str | bytes) -> None:
    """The message has the key and not the value."""
    with pytest.raises(ValueError, match="'key'") as caught:
        check_metadata([("key", value)])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [[("a", 5)], [("a", None)], [("a-bin", "text")], [(5, "a")], [(b"a", "b")], ["ab"], [("a",)], {"ab": "c"}]
)
def test_what_is_no_metadata_is_refused(wrong: Any) -> None:
    """The error is a TypeError."""
    with pytest.raises(TypeError, match="metadata"):
        check_metadata(wrong)

"""A stream of text never shows part of a stop string, loses nothing, and ends where the earliest stop begins."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes import byte_tokenizer

from carousel.sessions.text import TextStream, pending_bytes

BYTES = byte_tokenizer()


def stream(pieces: list[str], stops: tuple[str, ...]) -> tuple[list[str], TextStream]:
    """Push byte by byte, taking after each piece; what was taken, and the stream."""
    text = TextStream(BYTES, b"", stops)
    taken = []
    for piece in pieces:
        is_over = any(text.push(byte) for byte in piece.encode())
        if is_over:
            break
        taken.append(text.take())
    return [*taken, text.finish()], text


def by_the_book(whole: str, stops: tuple[str, ...]) -> tuple[str, str]:
    """Character by character: the text before the first stop to be complete (earliest start, then longest)."""
    for end in range(1, len(whole) + 1):
        found = [stop for stop in stops if whole[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return whole[: end - len(stop)], stop
    return whole, ""


@pytest.mark.parametrize("first", range(8))
@pytest.mark.parametrize("second", range(8))
def test_a_stop_that_straddles_pieces_is_found(first: int, second: int) -> None:
    """Wherever the text is cut, it ends before the stop and no letter of the stop was shown."""
    whole = "ab STOP"
    cuts = sorted((first, second))
    taken, text = stream([whole[: cuts[0]], whole[cuts[0] : cuts[1]], whole[cuts[1] :] + " more"], ("STOP",))
    assert "".join(taken) == "ab "
    assert text.stop == "STOP"


@settings(max_examples=300)
@given(
    st.lists(st.text(alphabet="abé", max_size=4), max_size=8),
    st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_any_text_in_any_pieces_ends_by_the_rules(pieces: list[str], stops: tuple[str, ...]) -> None:
    """Taken text is the reference's, at every moment a beginning of it, and holds back no more than a stop's length."""
    expected, stop = by_the_book("".join(pieces), stops)
    taken, text = stream(pieces, stops)
    assert "".join(taken) == expected
    assert text.stop == stop
    longest = max((len(one) - 1 for one in stops), default=0)
    for count, shown in enumerate("".join(taken[:n]) for n in range(1, len(taken))):
        assert len("".join(pieces[: count + 1])) - len(shown) <= longest


def test_only_what_a_stop_could_claim_is_held_back() -> None:
    """Text is held while a stop may be beginning, and let go as soon as it is not."""
    text = TextStream(BYTES, b"", ("xyz",))
    seen = []
    for byte in b"axyxyaz":
        assert not text.push(byte)
        seen.append(text.take())
    assert seen == ["a", "", "", "xy", "", "xya", "z"]


def test_the_end_gives_what_was_held() -> None:
    """Without its rest, the beginning of a stop is ordinary text."""
    text = TextStream(BYTES, b"", ("xyz",))
    for byte in b"axy":
        text.push(byte)
    assert text.take() == "a"
    assert text.finish() == "xy"
    assert text.stop == ""


def test_the_longest_of_stops_that_begin_together_wins() -> None:
    """Two stops complete at once by one token: the earlier start wins, then the longer."""

    class Words:
        def token_bytes(self, index: int) -> bytes:
            return [b"one END", b"ENDING", b"xEND"][index]

    for tokens, stops, expected in (
        ([0], ("END", "e END"), ("on", "e END")),
        ([1], ("END", "ENDING"), ("", "ENDING")),
        ([2], ("END", "xEN"), ("", "xEN")),
    ):
        text = TextStream(Words(), b"", stops)  # type: ignore[arg-type]
        assert [text.push(token) for token in tokens][-1]
        assert (text.finish(), text.stop) == expected


def test_half_a_character_waits_for_its_rest() -> None:
    """A character's bytes come out together; the last half stays inside."""
    text = TextStream(BYTES, b"", ())
    seen = []
    for byte in "né日".encode()[:-1]:
        text.push(byte)
        seen.append(text.take())
    assert seen == ["n", "", "é", "", ""]
    assert text.finish() == ""


def test_a_tail_from_before_completes_the_first_character() -> None:
    """The bytes that the turn before left over belong to this turn's text."""
    text = TextStream(BYTES, "日".encode()[:2], ("x",))
    text.push("日".encode()[2])
    assert text.take() == "日"


@given(st.text(), st.integers(0, 40), st.integers(0, 40))
def test_pending_bytes_are_those_of_an_unfinished_character(text: str, first: int, second: int) -> None:
    """In one turn or in two, what is pending after some bytes is what no character has claimed yet."""
    content = text.encode()
    first, second = sorted((min(first, len(content)), min(second, len(content))))
    tail = pending_bytes(BYTES, b"", content[:first])
    tail = pending_bytes(BYTES, tail, content[first:second])
    whole = content[:second].decode(errors="ignore").encode()
    assert tail == content[len(whole) : second]


def test_the_end_of_a_long_text_is_searched_alone() -> None:
    """A reader who never takes does not make each token dearer: 60,000 bytes with 16 stops are done at once."""
    text = TextStream(BYTES, b"", tuple(f"stop {number} " * 10 for number in range(16)))
    for _ in range(60_000):
        text.push(ord("a"))
    assert len(text.finish()) == 60_000

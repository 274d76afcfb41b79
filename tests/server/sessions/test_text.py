"""A stream of text never shows part of a stop string, loses nothing, and ends where the earliest stop begins."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes import byte_tokenizer

from carousel.bundle.tokenizer import TextDecoder
from carousel.sessions.text import StopFinder, TextStream, pending_bytes

BYTES = byte_tokenizer()


class Words:
    """A vocabulary of given spellings."""

    def __init__(self, *spellings: bytes) -> None:
        self.spellings = spellings

    def token_bytes(self, index: int) -> bytes:
        return self.spellings[index]


def stream(pieces: list[str], stops: tuple[str, ...]) -> tuple[list[str], StopFinder]:
    """Push byte by byte, taking after each piece; what was taken, and the finder."""
    finder = StopFinder(BYTES, b"", stops)
    text = TextStream(BYTES, b"", finder)
    taken: list[str] = []
    for piece in pieces:
        for byte in piece.encode():
            is_over = finder.push(byte)
            text.push_all([byte])
            if is_over:
                return [*taken, text.finish()], finder
        taken.append(text.pop_final())
    return [*taken, text.finish()], finder


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
    taken, finder = stream([whole[: cuts[0]], whole[cuts[0] : cuts[1]], whole[cuts[1] :] + " more"], ("STOP",))
    assert "".join(taken) == "ab "
    assert finder.stop == "STOP"


@settings(max_examples=300)
@given(
    st.lists(st.text(alphabet="abé", max_size=4), max_size=8),
    st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_any_text_in_any_pieces_ends_by_the_rules(pieces: list[str], stops: tuple[str, ...]) -> None:
    """Taken text is the reference's, at every moment a beginning of it, and holds back no more than a stop's length."""
    expected, stop = by_the_book("".join(pieces), stops)
    taken, finder = stream(pieces, stops)
    assert "".join(taken) == expected
    assert finder.stop == stop
    longest = max((len(one) - 1 for one in stops), default=0)
    for count, shown in enumerate("".join(taken[:n]) for n in range(1, len(taken))):
        assert len("".join(pieces[: count + 1])) - len(shown) <= longest


class SlowStream:
    """Searches all of the text again after each token."""

    def __init__(self, tail: bytes, stops: tuple[str, ...]) -> None:
        self._decoder = TextDecoder(tail)
        self._stops = stops
        self.text = ""
        self.stop = ""

    def push(self, piece: bytes) -> bool:
        self.text += self._decoder.push(piece)
        found = [(self.text.find(stop), -len(stop), stop) for stop in self._stops if stop in self.text]
        if found:
            start, _, self.stop = min(found)
            self.text = self.text[:start]
        return bool(found)

    @property
    def shown(self) -> str:
        ends = (self.text[at:] for at in range(len(self.text)))
        held = next((end for end in ends if any(stop.startswith(end) for stop in self._stops)), "")
        return self.text if self.stop else self.text[: len(self.text) - len(held)]


@settings(max_examples=500)
@given(
    st.lists(st.text(alphabet="ab日", max_size=5).map(str.encode) | st.binary(max_size=4), min_size=1, max_size=10),
    st.lists(st.text(alphabet="ab日", min_size=1, max_size=5), max_size=4).map(tuple),
    st.sampled_from([b"", "日".encode()[:1], "日".encode()[:2]]),
    st.sets(st.integers(0, 10)),
)
def test_tokens_of_any_bytes_end_as_a_slow_search_says(
    tokens: list[bytes], stops: tuple[str, ...], tail: bytes, takes: set[int]
) -> None:
    """The same stop, at the same token, the same text, and as much of it at each moment: also where a token holds
    several characters or none, and however many tokens come at once."""
    words, slow = Words(*tokens), SlowStream(tail, stops)
    finder = StopFinder(words, tail, stops)  # type: ignore[arg-type]
    text = TextStream(words, tail, finder)  # type: ignore[arg-type]
    taken, waiting = "", []
    for number, token in enumerate(tokens):
        is_over = slow.push(token)
        assert finder.push(number) == is_over
        waiting.append(number)
        if number in takes or is_over:
            text.push_all(waiting)
            waiting = []
            taken += text.finish() if is_over else text.pop_final()
            assert taken == slow.shown
        if is_over:
            break
    text.push_all(waiting)
    assert (taken + text.finish(), finder.stop) == (slow.text, slow.stop)


def test_the_reader_may_be_behind_the_search() -> None:
    """A stop that the search has come to is not known before its token is read."""
    finder = StopFinder(BYTES, b"", ("xyz",))
    text = TextStream(BYTES, b"", finder)
    assert [finder.push(byte) for byte in b"axbxyz"] == [False] * 5 + [True]
    seen = []
    for byte in b"axbxyz":
        text.push_all([byte])
        seen.append(text.pop_final())
    assert seen == ["a", "", "xb", "", "", ""]
    assert (text.finish(), finder.stop) == ("", "xyz")


def test_only_what_a_stop_could_claim_is_held_back() -> None:
    """Text is held while a stop may be beginning, and let go as soon as it is not."""
    finder = StopFinder(BYTES, b"", ("xyz",))
    text = TextStream(BYTES, b"", finder)
    seen = []
    for byte in b"axyxyaz":
        assert not finder.push(byte)
        text.push_all([byte])
        seen.append(text.pop_final())
    assert seen == ["a", "", "", "xy", "", "xya", "z"]


def test_the_end_gives_what_was_held() -> None:
    """Without its rest, the beginning of a stop is ordinary text."""
    finder = StopFinder(BYTES, b"", ("xyz",))
    text = TextStream(BYTES, b"", finder)
    for byte in b"axy":
        finder.push(byte)
    text.push_all(b"axy")
    assert text.pop_final() == "a"
    assert text.finish() == "xy"
    assert finder.stop == ""


@pytest.mark.parametrize(
    ("token", "stops", "expected"),
    [
        (b"one END", ("END", "e END"), ("on", "e END")),
        (b"ENDING", ("END", "ENDING"), ("", "ENDING")),
        (b"xEND", ("END", "xEN"), ("", "xEN")),
        (b"aba", ("ba", "aba"), ("", "aba")),
    ],
)
def test_the_longest_of_stops_that_begin_together_wins(
    token: bytes, stops: tuple[str, ...], expected: tuple[str, str]
) -> None:
    """Two stops complete at once by one token: the earlier start wins, then the longer."""
    words = Words(token)
    finder = StopFinder(words, b"", stops)  # type: ignore[arg-type]
    text = TextStream(words, b"", finder)  # type: ignore[arg-type]
    assert finder.push(0)
    text.push_all([0])
    assert (text.finish(), finder.stop) == expected


def test_half_a_character_waits_for_its_rest() -> None:
    """A character's bytes come out together; the last half stays inside."""
    text = TextStream(BYTES, b"")
    seen = []
    for byte in "né日".encode()[:-1]:
        text.push_all([byte])
        seen.append(text.pop_final())
    assert seen == ["n", "", "é", "", ""]
    assert text.finish() == ""


def test_a_tail_from_before_completes_the_first_character() -> None:
    """The bytes that the turn before left over belong to this turn's text."""
    text = TextStream(BYTES, "日".encode()[:2])
    text.push_all(["日".encode()[2]])
    assert text.pop_final() == "日"


@given(st.binary(max_size=3), st.lists(st.binary(max_size=3), max_size=6))
def test_pending_bytes_are_the_decoders(tail: bytes, tokens: list[bytes]) -> None:
    """Whatever bytes the tokens have, what is pending after them is what a decoder of all of them still holds."""
    decoder = TextDecoder()
    decoder.push(tail)
    before = decoder.tail
    for token in tokens:
        decoder.push(token)
    assert pending_bytes(Words(*tokens), before, range(len(tokens))) == decoder.tail  # type: ignore[arg-type]


@given(st.text(), st.integers(0, 40), st.integers(0, 40))
def test_pending_bytes_are_those_of_an_unfinished_character(text: str, first: int, second: int) -> None:
    """In one turn or in two, what is pending after some bytes is what no character has claimed yet."""
    content = text.encode()
    first, second = sorted((min(first, len(content)), min(second, len(content))))
    tail = pending_bytes(BYTES, b"", content[:first])
    tail = pending_bytes(BYTES, tail, content[first:second])
    whole = content[:second].decode(errors="ignore").encode()
    assert tail == content[len(whole) : second]


class CountingWords(Words):
    """Notes how many spellings were looked up."""

    num_looked_up = 0

    def token_bytes(self, index: int) -> bytes:
        self.num_looked_up += 1
        return super().token_bytes(index)


def test_the_pending_bytes_of_a_long_turn_are_looked_for_at_its_end() -> None:
    """65,536 tokens cost no more than three."""
    words = CountingWords("日".encode()[:1])
    assert pending_bytes(words, b"", [0] * 65_536) == "日".encode()[:1]  # type: ignore[arg-type]
    assert words.num_looked_up == 3


@pytest.mark.parametrize("letters", ["a", "ab", "zy"])
def test_stops_cost_each_token_little(letters: str) -> None:
    """16 stops of 256 letters that the text begins again and again: a token costs less than 100 microseconds, where
    looking at each beginning of each stop took over 300."""
    stops = tuple((letters * 256)[: 255 - number] + "!" for number in range(16))
    fastest = float("inf")
    for _ in range(5):
        finder = StopFinder(BYTES, b"", stops)
        started = time.thread_time()
        for byte in (letters * 1000).encode():
            finder.push(byte)
        fastest = min(fastest, (time.thread_time() - started) / 1000 / len(letters))
    assert fastest < 1e-4


def test_reading_costs_no_search() -> None:
    """The stream that hands out text looks for no stop again: it goes by what the finder left."""
    finder = StopFinder(BYTES, b"", ("stop",))
    for byte in b"a sto":
        finder.push(byte)
    finder._stops = ()
    text = TextStream(BYTES, b"", finder)
    text.push_all(b"a sto")
    assert text.pop_final() == "a "


def test_long_tokens_cost_no_more_than_the_stops_are_long() -> None:
    """A token of 4,000 letters takes no more looks than a stop has letters: what is longer is not compared."""
    looks: list[str] = []

    class Stop(str):
        def startswith(self, *given: object) -> bool:
            looks.append(str(given[0]))
            return super().startswith(*given)  # type: ignore[arg-type]

    StopFinder(Words(b"a" * 4_000), b"", [Stop("b" * 256)]).push(0)  # type: ignore[arg-type]
    assert 0 < len(looks) <= 256

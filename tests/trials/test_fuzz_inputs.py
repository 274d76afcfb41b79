"""Inputs depend only on seed, kind and number, and reach their targets."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from trials.fuzz.call_inputs import CALLS
from trials.fuzz.decode_child import attempt
from trials.fuzz.decoder import Decoder, Place
from trials.fuzz.decoders import DECODERS
from trials.fuzz.garbage import draw_garbage
from trials.fuzz.methods import METHODS
from trials.fuzz.mutations import make_dice, mutate
from trials.fuzz.scripts import Memory
from trials.fuzz.sound_requests import draw_request
from trials.fuzz.tiny_model import write_tiny_bundle

from carousel.bundle.manifest import Bundle
from carousel.errors import StateInvalid


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.load(write_tiny_bundle(tmp_path_factory.mktemp("fuzz") / "tiny"))


def make_decoder(kind: str, bundle: Bundle, directory: Path) -> Decoder:
    directory.mkdir()
    return DECODERS[kind](Place(bundle, directory))


@pytest.mark.parametrize("kind", list(DECODERS))
def test_what_is_decoded_depends_on_the_number_alone(kind: str, bundle: Bundle, tmp_path: Path) -> None:
    """Another child, started at another number, makes the same inputs; other numbers and seeds give others."""
    first, second = (make_decoder(kind, bundle, tmp_path / name) for name in "ab")
    drawn = [first.make(make_dice(1, kind, number)) for number in range(12)]
    assert [second.make(make_dice(1, kind, number)) for number in reversed(range(12))] == drawn[::-1]
    assert [second.make(make_dice(2, kind, number)) for number in range(12)] != drawn


@pytest.mark.parametrize("kind", list(DECODERS))
def test_some_are_accepted_and_some_refused(kind: str, bundle: Bundle, tmp_path: Path) -> None:
    """A fuzz whose inputs are always refused, or never, tests nothing."""
    decoder = make_decoder(kind, bundle, tmp_path / kind)
    outcomes = set()
    for number in range(60):
        try:
            decoder.attempt(decoder.make(make_dice(1, kind, number)))
            outcomes.add("accepted")
        except Exception as error:
            outcomes.add(type(error).__module__)
    assert outcomes == {"accepted", "carousel.errors"}


@pytest.mark.parametrize("kind", list(CALLS))
@pytest.mark.parametrize("has_owners", [False, True])
def test_calls_depend_on_the_number_alone(kind: str, has_owners: bool, bundle: Bundle) -> None:
    """The methods, bytes, fates and metadata are equal, in any order."""

    def draw(number: int) -> object:
        script = CALLS[kind](make_dice(1, kind, number), bundle.manifest, has_owners)
        memory = Memory()
        steps = [(step.method.name, list(step.make(memory)), step.fate) for step in script.steps]
        return steps, script.metadata, script.overlap

    drawn = [draw(number) for number in range(40)]
    assert [draw(number) for number in reversed(range(40))] == drawn[::-1]


def test_every_method_is_called(bundle: Bundle) -> None:
    """All methods of both services, health and reflection are among the messages, also as their declared type."""
    scripts = [CALLS["messages"](make_dice(1, "messages", number), bundle.manifest, False) for number in range(600)]
    assert {script.steps[0].method.name for script in scripts} == set(METHODS)
    assert all(type(draw_request(random.Random(1), name)) is method.request for name, method in METHODS.items())


def test_garbage_depends_on_the_dice_alone() -> None:
    """Frames, floods and other protocols come out the same again."""
    assert [draw_garbage(random.Random(n)) for n in range(60)] == [draw_garbage(random.Random(n)) for n in range(60)]


def raising(error: BaseException) -> Decoder:
    def fail(content: bytes) -> None:
        raise error

    return Decoder(lambda dice: b"", fail)


@pytest.mark.parametrize("error", [ValueError("x"), RecursionError(), MemoryError(), SystemExit(1), KeyError("x")])
def test_what_is_not_the_domains_is_trouble(error: BaseException) -> None:
    """Any exception of a decoder other than CarouselError is reported, with its type and place."""
    assert attempt(raising(error), b"").startswith(f"{type(error).__name__}: ")


def test_an_error_of_the_domain_is_an_answer() -> None:
    """A refusal in the domain's words is the right result for hostile input."""
    assert attempt(raising(StateInvalid("no")), b"") == ""
    assert attempt(Decoder(lambda dice: b"", lambda content: None), b"") == ""


def test_accidents_change_the_bytes() -> None:
    """Nearly every mutation differs from its original."""
    whole: Sequence[bytes] = [mutate(bytes(range(100)), random.Random(n)) for n in range(200)]
    assert sum(one == bytes(range(100)) for one in whole) < 20

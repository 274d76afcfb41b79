"""What every kind of input that is decoded in-process has in common."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from carousel.bundle.manifest import Bundle


@dataclass(frozen=True, slots=True)
class Place:
    """Where a decoder works: the bundle that inputs are drawn from, and a directory of its own to write into."""

    bundle: Bundle
    directory: Path


@dataclass(frozen=True, slots=True)
class Decoder:
    """`make` draws an input. `attempt` hands it to the product and returns, or raises a CarouselError; whatever else
    it raises is a finding."""

    make: Callable[[random.Random], bytes]
    attempt: Callable[[bytes], None]

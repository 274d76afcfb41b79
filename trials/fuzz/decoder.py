"""What all kinds of input that are decoded in-process have in common."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from carousel.bundle.manifest import Bundle


@dataclass(frozen=True, slots=True)
class Place:
    """Where a decoder works: the bundle from which inputs are made, and its own directory for files."""

    bundle: Bundle
    directory: Path


@dataclass(frozen=True, slots=True)
class Decoder:
    """`make` creates an input. `attempt` passes it to the product and returns, or raises a CarouselError; any other
    exception is a finding."""

    make: Callable[[random.Random], bytes]
    attempt: Callable[[bytes], None]

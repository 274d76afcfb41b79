"""The child that decodes. Its parent sees when it dies, and the progress file shows at which input."""

import json
import mmap
import resource
import struct
import sys
import traceback
from pathlib import Path

from trials.fuzz.decoder import Decoder, Place
from trials.fuzz.decoders import DECODERS
from trials.fuzz.mutations import make_dice

from carousel.bundle.manifest import Bundle
from carousel.errors import CarouselError

PROGRESS = struct.Struct("<q")
_MEMORY = 4 * 2**30  # an input that asks for more is a finding


def main() -> None:
    bundle, directory, seed, kind, first, count = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    decoder = DECODERS[kind](Place(Bundle.load(Path(bundle)), Path(directory)))
    under_way = Path(directory) / "input"
    with open(Path(directory) / "progress", "r+b") as file, mmap.mmap(file.fileno(), PROGRESS.size) as progress:
        for number in range(int(first), int(first) + int(count)):
            PROGRESS.pack_into(progress, 0, number)
            content = decoder.make(make_dice(int(seed), kind, number))
            under_way.write_bytes(content)
            trouble = attempt(decoder, content)
            if trouble:
                print(json.dumps({"number": number, "trouble": trouble, "content": content.hex()}), flush=True)
        PROGRESS.pack_into(progress, 0, int(first) + int(count))


def attempt(decoder: Decoder, content: bytes) -> str:
    """Returns the problem on one line; empty for an answer or an error of the domain."""
    try:
        decoder.attempt(content)
    except CarouselError:
        return ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        inside = next((one for one in reversed(frames) if "/carousel/" in one.filename), frames[-1])
        return f"{type(error).__name__}: {error} at {Path(inside.filename).name}:{inside.lineno}"[:500]
    return ""


if __name__ == "__main__":
    main()

"""The child that mutates inputs towards new lines of the product: libFuzzer, through atheris."""

import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["carousel.bundle", "carousel.state", "carousel.sessions"]):
    from trials.fuzz.bundle_inputs import sign
    from trials.fuzz.decoder import Place
    from trials.fuzz.decoders import DECODERS
    from trials.fuzz.mutations import make_dice
    from trials.fuzz.state_inputs import make_codec

    from carousel.bundle.manifest import FILE_NAME, Bundle, Manifest
    from carousel.errors import CarouselError
    from carousel.state.memory_file import read_memory

SLOW_SECONDS = 20  # for one input
_MAX_BYTES = 4000
_NUM_SAMPLES = 16
Target = Callable[[bytes], object]


def main() -> None:
    bundle, directory, seed, name, runs = sys.argv[1:]
    place = Place(Bundle.load(Path(bundle)), Path(directory))
    corpus = place.directory / "corpus"
    corpus.mkdir()
    target, samples = TARGETS[name](place, int(seed))
    for number, sample in enumerate(samples):
        (corpus / f"{number}").write_bytes(sample)
    options = [f"-runs={runs}", f"-seed={int(seed) + 1}", f"-max_len={_MAX_BYTES}", f"-timeout={SLOW_SECONDS}"]
    options += [f"-artifact_prefix={place.directory}/failed-", "-rss_limit_mb=4096", str(corpus)]
    atheris.Setup([sys.argv[0], *options], lambda content: _attempt(target, content))
    atheris.Fuzz()


def _attempt(target: Target, content: bytes) -> None:
    try:
        target(content)
    except CarouselError:
        return


def _snapshots(place: Place, seed: int) -> tuple[Target, list[bytes]]:
    """Mutates everything before the checksum, which always matches."""
    codec, whole = make_codec(place.bundle.manifest), DECODERS["snapshots"](place)
    samples = [whole.make(make_dice(seed, "guided", number))[:-4] for number in range(_NUM_SAMPLES)]
    return lambda content: codec.decode(content + struct.pack("<I", zlib.crc32(content))), samples


def _memory_files(place: Place, seed: int) -> tuple[Target, list[bytes]]:
    """Mutates one record, whose length and checksum always match."""
    path = place.directory / "guided.mem"
    row = {"id": "a", "owner": "", "incarnation": 1, "revision": 0, "position": 0}
    row |= {"created_at": 1.8e9, "updated_at": 1.8e9, "expires_at": 1.9e9}
    deed = {"owner": "", "request_id": "r", "fingerprint": "f", "targets": [["a", 1]]}
    heads = [{"row": row, "parts": {"at/000000000000": 3}}, {"deed": deed, "at": 1.8e9}]

    def read(content: bytes) -> None:
        path.write_bytes(b"CRSM\x02" + struct.pack("<II", len(content), zlib.crc32(content)) + content)
        read_memory(path)

    return read, [json.dumps(head).encode() + b"\nabc" for head in heads]


def _manifests(place: Place, seed: int) -> tuple[Target, list[bytes]]:
    """Mutates a JSON object whose digest always matches."""

    def read(content: bytes) -> None:
        try:
            facts = json.loads(content)
        except (ValueError, RecursionError):
            return
        if isinstance(facts, dict):
            sign(facts, {})
            Manifest.from_json(facts)

    return read, [(place.bundle.directory / FILE_NAME).read_bytes()]


TARGETS = {"guided_snapshots": _snapshots, "guided_memory_files": _memory_files, "guided_manifests": _manifests}

if __name__ == "__main__":
    main()

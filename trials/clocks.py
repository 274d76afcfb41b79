"""Programs that see a different time of day than the machine (Debian package faketime)."""

from pathlib import Path

_LIBRARIES = "/usr/lib/*/faketime/libfaketimeMT.so.1"


def find_library() -> Path | None:
    return next(iter(sorted(Path("/").glob(_LIBRARIES.lstrip("/")))), None)


def shifted_clock(seconds: int) -> dict[str, str]:
    """Returns the environment of a program whose time of day is this far ahead; clocks that measure durations are
    unchanged. Of all waits, only `time.sleep` does not work there."""
    if not seconds:
        return {}
    library = find_library()
    if library is None:
        raise SystemExit("libfaketime is not installed (Debian package faketime)")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{seconds:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }

"""The kinds of input that are decoded in-process, by name."""

from collections.abc import Callable, Mapping

from trials.fuzz.bundle_inputs import bundles
from trials.fuzz.decoder import Decoder, Place
from trials.fuzz.file_inputs import memory_files, sqlite_files
from trials.fuzz.log_inputs import turn_logs
from trials.fuzz.settings_inputs import settings
from trials.fuzz.state_inputs import seals, snapshots

DECODERS: Mapping[str, Callable[[Place], Decoder]] = {
    "snapshots": snapshots,
    "seals": seals,
    "memory_files": memory_files,
    "sqlite_files": sqlite_files,
    "turn_logs": turn_logs,
    "bundles": bundles,
    "settings": settings,
}

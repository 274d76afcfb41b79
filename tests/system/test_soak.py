"""A short soak: every part of the load runs and returns only expected results; the planted leak leaks."""

import json
import shutil
from pathlib import Path

import pytest
from trials.leaking_server import VARIABLE
from trials.soak import Soaked, print_figures, soak
from trials.soak_servers import SoakServers, program_of

pytestmark = pytest.mark.slow

STORES = ("memory", "sqlite", *(("redis",) if shutil.which("redis-server") else ()))
SECONDS = 8.0


def _soak(bundle: Path, directory: Path, stores: tuple[str, ...]) -> list[Soaked]:
    servers = SoakServers(bundle, 256, directory, program_of())
    return soak(servers, stores, SECONDS, seed=3, num_records=20)


def test_a_mixed_load_meets_nothing_unexpected(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cancelled streams, vanished peers, retries, forks, rewinds: turns on every store, no error, and all figures."""
    soaked = _soak(bundle, tmp_path, STORES)
    print_figures(soaked)
    assert [one.load.unexpected for one in soaked] == [{}] * len(STORES)
    assert all(one.load.num_turns > 20 for one in soaked)
    figures = {line["name"]: line["value"] for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert figures["soak.turns"] == pytest.approx(sum(one.load.num_turns for one in soaked), rel=1e-4)
    assert figures["soak.errors_unexpected"] == 0
    assert {"soak.rss_slope_bytes_per_turn", "soak.open_files_slope"} <= figures.keys()


def test_a_planted_leak_fails_the_soak(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server leaks when its environment says so; here enough to show within seconds."""
    monkeypatch.setenv(VARIABLE, "20000")
    (leaking,) = _soak(bundle, tmp_path, ("memory",))
    assert not leaking.load.unexpected
    samples = leaking.samples
    grown = samples.resident_bytes[-1] - samples.resident_bytes[len(samples.turns) // 4]
    taken = samples.turns[-1] - samples.turns[len(samples.turns) // 4]
    assert 15_000 < grown / taken < 40_000
    assert not print_figures([leaking])

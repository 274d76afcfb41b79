"""The benches of encryption and identity measure servers that encrypt and that know their caller."""

import json
import subprocess
from pathlib import Path

import pytest
from bench.harness.certificates import Authority
from bench.harness.load import Load, put_load
from bench.harness.server_process import serve
from bench.harness.turn_about import Side, compare
from tests.bundles import write_bundle

from bench.serving import auth, tls

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    write_bundle(directory)
    return directory


@pytest.mark.parametrize(("bench", "figure"), [(tls, "predict_over_plain"), (auth, "predict_over_anonymous")])
def test_the_figures(
    bench: object, figure: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ratio of two speeds, and the one that is asked about."""
    bench.measure(bundle, tmp_path, 1, 20)  # type: ignore[attr-defined]
    found = {line["name"]: line["value"] for line in map(json.loads, capsys.readouterr().out.splitlines())}
    name = bench.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    assert 0.05 < found[f"{name}.small.{figure}"] < 20
    assert found[f"{name}.small.predict.messages"] > 0


def test_the_load_is_encrypted(bundle: Path, tmp_path: Path) -> None:
    """A client of another authority, and one without encryption, fail."""
    authority = Authority(tmp_path / "one")
    own = authority.sign("server")
    load = Load("predict", 1, 1, 1, ca=str(Authority(tmp_path / "other").ca))
    with serve(bundle, "--set", f"tls_cert={own.cert}", "--set", f"tls_key={own.key}") as server:
        for wrong in (load, Load("predict", 1, 1, 1)):
            with pytest.raises(subprocess.CalledProcessError):
                put_load(server.grpc_address, wrong)


def test_a_median_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair is one ratio, so that a slow moment of the machine counts for both."""
    speeds = {"one": iter([1.0, 20.0, 3.0]), "other": iter([2.0, 10.0, 4.0])}
    monkeypatch.setattr(Side, "speed", lambda side: next(speeds[side.address]))
    load = Load("predict")
    assert compare(Side("one", load), Side("other", load), 3) == (0.75, 3.0)

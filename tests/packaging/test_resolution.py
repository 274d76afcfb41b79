"""The pinned set installs beside the newest known clients of Triton and KServe."""

import subprocess
import sys

import pytest
from tests.packaging.environments import ROOT

pytestmark = pytest.mark.packaging

_OURS = f"{ROOT}[redis,otel,train,export,dev]"
_TRITON, _KSERVE = "tritonclient[grpc]>=2.73", "kserve>=0.21"  # older ones resolve more easily and prove less


@pytest.mark.parametrize("others", [(_TRITON,), (_KSERVE,), (_TRITON, _KSERVE)], ids=" and ".join)
def test_the_pinned_set_resolves_together_with(others: tuple[str, ...]) -> None:
    """pip finds one version of everything under our constraints, without an installation."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--constraint", "constraints.txt"]
    done = subprocess.run([*command, _OURS, *others], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr

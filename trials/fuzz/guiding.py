"""The parent of the coverage-guided children. Without atheris, which has no wheel for some systems, these kinds are
skipped."""

import importlib.util
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trials.fuzz.findings import CRASH, HANG, Finding, Report

_TIMED_OUT = 70  # libFuzzer's exit code
_PATIENCE = 600.0


def is_available() -> bool:
    return importlib.util.find_spec("atheris") is not None


def run_guided(command: Sequence[str], kind: str, bundle: Path, report: Report, num_runs: int) -> None:
    """`command` runs `guided_child`. Its inputs depend on the seed and on all earlier inputs."""
    directory = report.directory / kind
    directory.mkdir()
    arguments = [*command, str(bundle), str(directory), str(report.seed), kind, str(num_runs)]
    try:
        done = subprocess.run(arguments, capture_output=True, timeout=_PATIENCE)
        code, told = done.returncode, (done.stdout + done.stderr).decode(errors="replace").splitlines()
    except subprocess.TimeoutExpired:
        code, told = _TIMED_OUT, []
    report.num_inputs[kind] += num_runs
    if code:
        failed = next(iter(directory.glob("failed-*")), None)
        content = failed.read_bytes() if failed else b""
        report.add(Finding(HANG if code == _TIMED_OUT else CRASH, kind, [0], _reason(told, code), content))


def _reason(told: Sequence[str], code: int) -> str:
    """Returns the error's line after the traceback, or the last line."""
    named = [line for line in told if "Error" in line and not line.startswith((" ", "=="))]
    return f"the child exited with {code}: {(named or list(told) or ['without a word'])[-1][:300]}"

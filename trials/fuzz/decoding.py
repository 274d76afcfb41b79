"""The parent of the children that decode: it sees what ends or stops a child, and starts the next one after that
input."""

import json
import mmap
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from trials.fuzz.decode_child import PROGRESS
from trials.fuzz.findings import CRASH, HANG, Finding, Report

_LOOK_SECONDS = 0.1
_START_SECONDS = 60.0
_NOT_STARTED = -1


def run_decoder(
    command: Sequence[str], kind: str, bundle: Path, report: Report, numbers: range, hang_seconds: float
) -> None:
    """`command` runs `decode_child`."""
    directory = report.directory / kind
    directory.mkdir()
    at = numbers.start
    while at < numbers.stop:
        arguments = [*command, str(bundle), str(directory), str(report.seed), kind, str(at), str(numbers.stop - at)]
        at = _run_child(arguments, kind, report, directory, hang_seconds)
    report.num_inputs[kind] += len(numbers)


def _run_child(arguments: list[str], kind: str, report: Report, directory: Path, hang_seconds: float) -> int:
    """Returns the number of the next input."""
    path, output = directory / "progress", directory / "findings.jsonl"
    path.write_bytes(PROGRESS.pack(_NOT_STARTED))
    with path.open("rb") as file, mmap.mmap(file.fileno(), PROGRESS.size, access=mmap.ACCESS_READ) as progress:
        with output.open("w") as findings, (directory / "errors.txt").open("w") as errors:
            child = subprocess.Popen(arguments, stdout=findings, stderr=errors)
        try:
            is_hung = _watch(child, progress, hang_seconds)
        finally:
            child.kill()
            code = child.wait()
        (at,) = PROGRESS.unpack_from(progress)
    if at == _NOT_STARTED:
        raise RuntimeError(f"the child did not start: {_last_words(directory / 'errors.txt', code)}")
    for line in output.read_text().splitlines():
        found = json.loads(line)
        content = bytes.fromhex(found["content"])
        report.add(Finding(CRASH, kind, [found["number"]], found["trouble"], content))
    if not is_hung and code == 0:
        return int(at)
    content = (directory / "input").read_bytes() if (directory / "input").exists() else b""
    told = f"no end in {hang_seconds} s" if is_hung else _last_words(directory / "errors.txt", code)
    report.add(Finding(HANG if is_hung else CRASH, kind, [int(at)], told, content))
    return int(at) + 1


def _watch(child: subprocess.Popen[bytes], progress: mmap.mmap, hang_seconds: float) -> bool:
    """Waits until the child ends, or hangs on one input. Returns whether it hangs."""
    seen, since = PROGRESS.unpack_from(progress), time.monotonic()
    while True:
        try:
            child.wait(_LOOK_SECONDS)
            return False
        except subprocess.TimeoutExpired:
            now = PROGRESS.unpack_from(progress)
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > (_START_SECONDS if now == (_NOT_STARTED,) else hang_seconds):
            return True


def _last_words(path: Path, code: int) -> str:
    lines = path.read_text(errors="replace").splitlines()
    return f"the child exited with {code}: {lines[-1][:300] if lines else 'without a word'}"

"""The image installs what the locks name, and the locks agree with constraints.txt and pyproject.toml."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from hashlib import sha256
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from tools.image_locks import FOLDER, LEFT_OUT, PYTHON, Report, find_needed, list_locks, read_constraints

ROOT = Path(__file__).parents[2]
_PIN = re.compile(r"(\S+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)")
_INSTRUCTION = re.compile(r"^([A-Z]+) (.*)$", re.MULTILINE)


def _read(name: str) -> dict[str, tuple[str, list[str]]]:
    """Returns each package's version and hashes. Fails where a line is anything but a pin with hashes or a comment."""
    text = (ROOT / FOLDER / f"{name}.txt").read_text().replace(" \\\n   ", "")
    pins = [_PIN.fullmatch(line) for line in text.splitlines() if not line.startswith("#")]
    assert all(pins), f"{name}.txt has a line that is not NAME==VERSION with hashes"
    return {pin[1]: (pin[2], re.findall("[0-9a-f]{64}", pin[3])) for pin in pins if pin is not None}


def _make_wheel(folder: Path) -> str:
    """Writes a wheel of the package `tiny` and returns its sha256."""
    made = folder / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as wheel:
        wheel.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        wheel.writestr("tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.dist-info/RECORD", "")
    return sha256(made.read_bytes()).hexdigest()


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    """pip takes the locked wheel, and neither one with other bytes nor one that the lock has no hash of."""
    right = _make_wheel(tmp_path)
    lock = tmp_path / "lock.txt"
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", "--require-hashes"]
    for line, code in ((f"tiny==1 --hash=sha256:{right}", 0), (f"tiny==1 --hash=sha256:{'0' * 64}", 1), ("tiny==1", 1)):
        lock.write_text(f"{line}\n")
        command = [*pip, "--find-links", str(tmp_path), "--requirement", str(lock)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == code


def _installed(names: set[str]) -> Report:
    """Returns the metadata of what is installed here, as pip would report it."""
    return {
        name: {"metadata": {"version": version(name), "requires_dist": requires(name) or []}}
        for name in names - {"onnxruntime-gpu"}
    }


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu", "build"])
def test_every_line_is_a_pin_of_our_constraints_with_hashes(name: str) -> None:
    """A wheel that differs from the locked one is refused, wherever it comes from. CUDA is pinned in the lock alone."""
    ours, locked = read_constraints(), _read(name)
    expected = {one: ours[one] for one in locked if not one.startswith(("nvidia-", "onnxruntime-gpu"))}
    assert {one: pin for one, (pin, _) in locked.items() if one in expected} == expected
    assert all(1 <= len(hashes) <= 2 for _, hashes in locked.values())


def test_the_lock_is_complete_and_has_nothing_else() -> None:
    """The dependencies and the extras need, by the metadata of what is installed, exactly what the lock names, on both
    architectures."""
    locked = _read("onnxruntime")
    [lock] = [one for one in list_locks() if one.name == "onnxruntime"]
    for architecture in lock.architectures:
        assert find_needed(_installed(set(locked)), lock.requirements, architecture) == set(locked)
    assert not LEFT_OUT & set(locked)


def test_the_lock_for_gpus_differs_by_the_runtime_and_cuda_alone() -> None:
    """All else is the same wheel or a wheel of the same version."""
    cpu, gpu = _read("onnxruntime"), _read("onnxruntime-gpu")
    assert {name for name in gpu.keys() - cpu.keys() if not name.startswith("nvidia-")} == {"onnxruntime-gpu"}
    assert "nvidia-cudnn-cu13" in gpu
    assert cpu.keys() - gpu.keys() == {"onnxruntime"}
    assert cpu["onnxruntime"][0] == gpu["onnxruntime-gpu"][0]
    for name in cpu.keys() & gpu.keys():
        assert cpu[name][0] == gpu[name][0]
        assert set(gpu[name][1]) <= set(cpu[name][1])


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return _INSTRUCTION.findall(text.replace("\\\n", ""))


def test_the_image_installs_by_hash_alone() -> None:
    """Each installation demands hashes, but that of the wheel built on the spot, which takes nothing from an index."""
    runs = " ".join(value for kind, value in _instructions() if kind == "RUN")
    installs = [part for part in runs.split("&&") if " install " in part and "uninstall" not in part]
    assert len(installs) == 3
    for part in installs:
        assert "--require-hashes" in part or "--no-deps --no-index" in part
    assert ("ARG", f"BASE=python:{PYTHON}-slim-bookworm") in _instructions()


def test_the_image_starts_without_a_shell_and_is_labelled() -> None:
    """Commands are lists, which need no shell; the labels say what pyproject.toml says."""
    last = _instructions()[[kind for kind, _ in _instructions()].index("LABEL") :]
    for kind, value in last:
        if kind in ("RUN", "CMD", "ENTRYPOINT"):
            assert json.loads(value)
        if kind == "HEALTHCHECK":
            assert json.loads(value.partition("CMD ")[2])
    labels = dict(re.findall(r'image\.(\w+)="([^"]*)"', dict(last)["LABEL"]))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels.keys() == {"title", "description", "licenses", "version"}
    assert (labels["version"], labels["licenses"]) == (project["version"], project["license"])
    assert dict(last)["USER"] == "10001:10001"


def test_the_build_sees_the_locks() -> None:
    """.dockerignore leaves out all but what is named."""
    assert f"!{FOLDER}/" in (ROOT / ".dockerignore").read_text().split()


def test_names_are_canonical() -> None:
    """One spelling of each package, so that two locks can be compared."""
    for name in ("onnxruntime", "onnxruntime-gpu", "build"):
        assert all(one == canonicalize_name(one) for one in _read(name))

"""Writes deploy/image/*.txt, the exact packages of the images: `make locks`.

pip resolves each set for each architecture, with the pins of constraints.txt, and reports the wheels that it would
install. A lock has their hashes alone, no address: wherever a wheel comes from, it is the one that was locked, or pip
refuses it.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FOLDER = Path("deploy/image")
EXTRAS = ("redis", "otel")  # of the project, as the image has them
# The server never downloads a model; what the tokenizer library brings for that stays out.
LEFT_OUT = frozenset({"huggingface-hub"})
PYTHON = "3.11"
_OLDEST_GLIBC, _GLIBC = 5, 36  # 2.5: the first that wheels name; 2.36: the base image's
_BOTH = ("x86_64", "aarch64")
_BUILD_TOOLS = ("cyclonedx-bom>=7",)

Report = Mapping[str, Mapping[str, Any]]  # a package's canonical name -> what pip says it would install


@dataclass(frozen=True)
class Lock:
    """A set of packages: what it is for, what it begins with, and the architectures that have wheels of all."""

    name: str
    purpose: str
    requirements: tuple[str, ...]
    architectures: tuple[str, ...] = _BOTH


def list_locks(root: Path = ROOT) -> list[Lock]:
    """Returns the locks as pyproject.toml and constraints.txt ask for them."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    declared = project["project"]["dependencies"]
    extras = [one for extra in EXTRAS for one in project["project"]["optional-dependencies"][extra]]
    others = [one for one in declared if Requirement(one).name != "onnxruntime"]
    gpu = f"onnxruntime-gpu[cuda,cudnn]=={read_constraints(root)['onnxruntime']}"
    build = (*project["build-system"]["requires"], *_BUILD_TOOLS)
    return [
        Lock("onnxruntime", "The server for CPUs", (*declared, *extras)),
        Lock("onnxruntime-gpu", "The server for NVIDIA GPUs", (*others, *extras, gpu), ("x86_64",)),
        Lock("build", "What builds the wheel and lists what the image holds; none of it is in the image", build),
    ]


def read_constraints(root: Path = ROOT) -> dict[str, str]:
    """Returns the version of each package in constraints.txt, by canonical name."""
    pins = [line.split("==") for line in (root / "constraints.txt").read_text().split()]
    return {canonicalize_name(name): version for name, version in pins}


def find_needed(report: Report, requirements: Iterable[str], architecture: str) -> set[str]:
    """Returns the names of all that the requirements need on Linux with this architecture, without what is left out.

    Raises KeyError with the name of a package that is needed and not in the report."""
    place = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": architecture}
    version = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.99", "implementation_name": "cpython"}
    found: set[tuple[str, str]] = set()
    waiting = list(_with_extras(requirements, "", {**place, **version}))
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) not in found:
            found.add((name, extra))
            needs = report[name]["metadata"].get("requires_dist", ())
            waiting += _with_extras(needs, extra, {**place, **version})
    return {name for name, _ in found}


def _with_extras(requirements: Iterable[str], extra: str, place: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields name and extra of each requirement that holds here; the extra is empty for the package alone."""
    for requirement in map(Requirement, requirements):
        name = canonicalize_name(requirement.name)
        holds = requirement.marker is None or requirement.marker.evaluate({**place, "extra": extra})
        if holds and name not in LEFT_OUT:
            yield from ((name, one) for one in ("", *sorted(requirement.extras)))


def write_lock(lock: Lock, reports: Mapping[str, Report]) -> str:
    """Returns the lock's text from the reports of all its architectures. Raises ValueError where their versions
    differ."""
    wheels: dict[str, dict[str, set[str]]] = {}
    for architecture, report in reports.items():
        for name in find_needed(report, lock.requirements, architecture):
            made = report[name]
            hashes = wheels.setdefault(name, {}).setdefault(made["metadata"]["version"], set())
            hashes.add(made["download_info"]["archive_info"]["hashes"]["sha256"])
    if differing := [name for name, versions in wheels.items() if len(versions) > 1]:
        raise ValueError(f"{lock.name}: versions differ between architectures: {', '.join(sorted(differing))}")
    return "\n".join([*_introduce(lock), *(_pin(name, wheels[name]) for name in sorted(wheels))]) + "\n"


def _introduce(lock: Lock) -> tuple[str, str]:
    place = f"Python {PYTHON}, Linux with glibc 2.{_GLIBC} or newer, {' and '.join(lock.architectures)}"
    source = "Generated by `make locks` from pyproject.toml and constraints.txt: change those, not this file."
    return f"# {lock.purpose}: {place}.", f"# {source}"


def _pin(name: str, versions: Mapping[str, Collection[str]]) -> str:
    [(version, hashes)] = versions.items()
    return " \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{one}" for one in sorted(hashes))])


def _resolve(lock: Lock, architecture: str, folder: Path) -> Report:
    """Asks pip what it would install. Raises CalledProcessError when there is no such set; pip prints the reason."""
    report = folder / f"{lock.name}-{architecture}.json"
    tags = [f"manylinux_2_{minor}_{architecture}" for minor in range(_GLIBC, _OLDEST_GLIBC - 1, -1)]
    target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}", f"--target={folder}"]
    platforms = [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{architecture}")]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", f"--report={report}"]
    pins = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *target, *platforms, *pins, *lock.requirements], check=True)
    chosen = json.loads(report.read_text())["install"]
    return {canonicalize_name(one["metadata"]["name"]): one for one in chosen}


def main() -> None:
    if sys.version_info[:2] != tuple(map(int, PYTHON.split("."))):
        sys.exit(f"pip decides for the Python that runs it: run this with Python {PYTHON}")
    with tempfile.TemporaryDirectory() as folder:
        for lock in list_locks():
            reports = {architecture: _resolve(lock, architecture, Path(folder)) for architecture in lock.architectures}
            (ROOT / FOLDER / f"{lock.name}.txt").write_text(write_lock(lock, reports))


if __name__ == "__main__":
    main()

"""How a bench speaks: one line that describes the machine, then a JSON line for each figure."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path

_PACKAGES = ("carousel-serving", "onnxruntime", "grpcio", "numpy", "torch")


def print_machine() -> None:
    """Processor, cores, memory, versions."""
    facts = {
        "cpu": _first_line_after("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    } | {package: importlib.metadata.version(package) for package in _PACKAGES}
    print(json.dumps({"machine": facts}), flush=True)


def print_figure(
    name: str, value: float, unit: str, *, at_least: float | None = None, at_most: float | None = None
) -> None:
    """One figure under its stable dotted name; `holds` says whether the target is met, null where there is none."""
    target = at_least if at_least is not None else at_most
    holds = None
    if at_least is not None:
        holds = value >= at_least
    elif at_most is not None:
        holds = value <= at_most
    rounded = float(f"{value:.5g}")
    print(json.dumps({"name": name, "value": rounded, "unit": unit, "target": target, "holds": holds}), flush=True)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the sorted values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _first_line_after(path: str, key: str) -> str:
    if not Path(path).exists():
        return ""
    lines = Path(path).read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")

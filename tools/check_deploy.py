"""Checks the files for Kubernetes in deploy/: `make check-deploy`.

The chart is linted, and rendered with each values file in deploy/chart/ci/. Everything must fit the schemas of the
oldest Kubernetes that the chart takes and of a recent one, which refuse unknown fields.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

CHART = Path("deploy/chart")
RUNTIME = Path("deploy/kserve/servingruntime.yaml")
VERSIONS = ("1.30", "1.34")
OF_OTHERS = frozenset({"PodMonitor", "ScaledObject", "ServingRuntime"})  # kinds that Kubernetes itself does not know

Manifest = dict[str, Any]


def lint(helm: str, values: Path) -> None:
    """Raises CalledProcessError when helm warns."""
    _run(helm, "lint", "--strict", "--quiet", str(CHART), "--values", str(values))


def render(helm: str, values: Path, version: str) -> list[Manifest]:
    """Returns what helm would install. Raises CalledProcessError."""
    options = ["--values", str(values), "--kube-version", version, "--namespace", "models"]
    text = _run(helm, "template", "trial", str(CHART), *options)
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def pod_of(runtime: Manifest) -> Manifest:
    """Returns the pod that KServe makes of a runtime, without what it adds: Kubernetes knows its fields."""
    names = ("containers", "volumes", "nodeSelector", "affinity", "tolerations", "imagePullSecrets")
    spec = {name: runtime["spec"][name] for name in names if name in runtime["spec"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": runtime["metadata"]["name"]}, "spec": spec}


def find_problems(manifests: list[Manifest], version: str) -> Iterator[str]:
    """Yields a sentence for each manifest that the version's schema refuses, and for each kind without a schema."""
    for manifest in manifests:
        if manifest["kind"] in OF_OTHERS:
            continue
        name = f"{manifest['kind']} {manifest['metadata']['name']} against {version}"
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name}: {'.'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield f"{name}: {error.message}"


def check(helm: str, version: str) -> Iterator[str]:
    """Yields the problems of all values files and of the runtime for KServe."""
    for values in sorted((CHART / "ci").glob("*.yaml")):
        lint(helm, values)
        manifests = render(helm, values, f"{version}.0")
        print(f"{values}: {len(manifests)} manifests against {version}")
        yield from (f"{values}: {problem}" for problem in find_problems(manifests, version))
    runtime = yaml.safe_load(RUNTIME.read_text(encoding="utf-8"))
    yield from (f"{RUNTIME}: {problem}" for problem in find_problems([pod_of(runtime)], version))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helm", default="helm", help="the program")
    helm = parser.parse_args().helm
    try:
        problems = [problem for version in VERSIONS for problem in check(helm, version)]
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.stdout}{error.stderr}")
    if problems:
        sys.exit("\n".join(problems))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()

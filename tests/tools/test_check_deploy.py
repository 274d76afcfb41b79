"""Manifests that Kubernetes would refuse are found, and kinds that are not known are not passed over."""

from typing import Any

import pytest

pytest.importorskip("kubernetes_validate", reason="`make check-deploy` installs it")

from tools.check_deploy import find_problems, pod_of

_RUNTIME: dict[str, Any] = {
    "kind": "ServingRuntime",
    "metadata": {"name": "a"},
    "spec": {"containers": [{"name": "b", "image": "c"}], "multiModel": False},
}


def test_an_unknown_field_is_named() -> None:
    """The sentence has the manifest, the version and the field."""
    pod = pod_of(_RUNTIME)
    assert list(find_problems([pod], "1.34")) == []
    pod["spec"]["containers"][0]["nonsense"] = 1
    [problem] = find_problems([pod], "1.34")
    assert problem.startswith("Pod a against 1.34: spec.containers.0: ")
    assert "nonsense" in problem


def test_only_kinds_that_are_listed_are_passed_over() -> None:
    """A misspelled kind is a problem."""
    slip = {"apiVersion": "v1", "kind": "Serivce", "metadata": {"name": "a"}}
    [problem] = find_problems([slip, _RUNTIME], "1.34")
    assert problem.startswith("Serivce a against 1.34: Couldn't find schema")

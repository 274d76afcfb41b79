"""The chart renders what is safe, and refuses what would be unencrypted by accident or lose sessions."""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from carousel.settings import Settings, read_settings

_ROOT = Path(__file__).parents[2]
_CHART = _ROOT / "deploy" / "chart"
_VALUES = sorted((_CHART / "ci").glob("*.yaml"))
_UNPACKED = Path(sys.prefix) / "helm" / "package" / "bin" / "helm"  # by `make check-deploy`
_HELM = shutil.which("helm") or (str(_UNPACKED) if _UNPACKED.exists() else None)
_MINIMAL = {"bundle.claim": "bundles", "plaintext": "everywhere"}
_ENCRYPTED = {"bundle.claim": "bundles", "tls.secret": "pair"}
_REDIS = {"redis.url": "redis://redis:6379/0"}

needs_helm = pytest.mark.skipif(_HELM is None, reason="there is no helm here; `make check-deploy` gets one")


def _template(*options: str, release: str = "trial") -> subprocess.CompletedProcess[str]:
    command = [str(_HELM), "template", release, str(_CHART), "--kube-version", "1.34.0", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def _render(*options: str, release: str = "trial") -> list[dict[str, Any]]:
    done = _template(*options, release=release)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def _set(values: dict[str, str]) -> list[str]:
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def _of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [found] = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def _pod(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = _of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    return pod


def _variables(manifests: list[dict[str, Any]]) -> dict[str, str]:
    [container] = _pod(manifests)["containers"]
    return {one["name"]: one.get("value", "") for one in container["env"]}


@pytest.fixture(params=_VALUES, ids=lambda path: path.stem)
def rendered(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What each values file installs."""
    return _render("--values", str(request.param))


def _containers(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from pod["containers"]
    yield from pod.get("initContainers", ())


def _assert_restricted(container: dict[str, Any]) -> None:
    security = container["securityContext"]
    assert security["runAsNonRoot"]
    assert security["runAsUser"] == security["runAsGroup"] == 10001
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


@needs_helm
def test_every_container_is_restricted(rendered: list[dict[str, Any]]) -> None:
    """No container is root, writes its image or has a capability; the pod has no token of the cluster."""
    pod = _pod(rendered)
    for container in _containers(pod):
        _assert_restricted(container)
    assert pod["automountServiceAccountToken"] is False
    assert _of_kind(rendered, "ServiceAccount")["automountServiceAccountToken"] is False
    assert f"USER {pod['securityContext']['runAsUser']}:" in (_ROOT / "Dockerfile").read_text()
    written = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if not mount.get("readOnly")}
    assert written == {"/tmp"}


@needs_helm
def test_probes_ask_the_http_port_as_it_is_encrypted(rendered: list[dict[str, Any]]) -> None:
    """Liveness asks nothing that the store decides."""
    variables = _variables(rendered)
    encrypted = "CAROUSEL_TLS_CERT" in variables and "CAROUSEL_PLAINTEXT" not in variables
    [container] = _pod(rendered)["containers"]
    for name, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
        asked = container[f"{name}Probe"]["httpGet"]
        assert asked == {"path": path, "port": "http", "scheme": "HTTPS" if encrypted else "HTTP"}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 50051, "http": 9090} | ({"web": 8000} if "CAROUSEL_OPENAI_LISTEN" in variables else {})


@needs_helm
def test_the_drain_has_time(rendered: list[dict[str, Any]]) -> None:
    """The pod is killed later than the wait before the drain and the drain take."""
    pod = _pod(rendered)
    drain = float(_variables(rendered)["CAROUSEL_DRAIN_SECONDS"])
    wait = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > drain + wait


@needs_helm
def test_the_server_takes_what_it_is_told(rendered: list[dict[str, Any]]) -> None:
    """Every variable is a setting with a value that the server accepts; no Service adds another."""
    variables = _variables(rendered)
    secrets = {"CAROUSEL_STORE_PASSWORD", "CAROUSEL_SEAL_KEYS"}
    settings = read_settings({name: value for name, value in variables.items() if name not in secrets}, {})
    assert settings.listen.endswith(":50051")
    assert settings.openai_listen in ("", "[::]:8000")
    assert _pod(rendered)["enableServiceLinks"] is False


@needs_helm
def test_what_selects_pods_finds_them(rendered: list[dict[str, Any]]) -> None:
    """Services, the policy and the budget have the pods' labels; gRPC's Service is headless."""
    labels = _of_kind(rendered, "Deployment")["spec"]["template"]["metadata"]["labels"]
    services = [one["spec"] for one in rendered if one["kind"] == "Service"]
    selectors = [one["selector"] for one in services]
    selectors.append(_of_kind(rendered, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
    selectors.append(_of_kind(rendered, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"])
    assert len(selectors) == (5 if "CAROUSEL_OPENAI_LISTEN" in _variables(rendered) else 4)
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert [one["ports"][0]["name"] for one in services if one.get("clusterIP") == "None"] == ["grpc"]


@needs_helm
@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"bundle.claim": "bundles"}, "plaintext=everywhere where that is meant"),
        ({"bundle.claim": "bundles", "plaintext": "http"}, "plaintext=everywhere where that is meant"),
        ({"bundle.claim": "bundles", "principals.secret": "callers"}, "tokens would travel unencrypted"),
        (_MINIMAL | {"tls.secret": "pair"}, "contradicts tls.secret"),
        (_MINIMAL | {"tls.clientCa.secret": "ca"}, "tls.clientCa.secret needs tls.secret"),
        ({"plaintext": "everywhere"}, "set bundle.claim or bundle.image"),
        (_MINIMAL | {"bundle.image": "bundles:1"}, "exclude each other"),
        (_MINIMAL | {"replicas": "2"}, "replicas above 1 needs redis.url"),
        (_MINIMAL | {"hpa.enabled": "true"}, "hpa.maxReplicas above 1 needs redis.url"),
        (_MINIMAL | {"keda.enabled": "true"}, "keda.maxReplicas above 1 needs redis.url"),
        (_MINIMAL | _REDIS | {"hpa.enabled": "true", "keda.enabled": "true"}, "exclude each other"),
        (_MINIMAL | _REDIS | {"hpa.enabled": "true", "hpa.minReplicas": "9"}, "minReplicas is above"),
        (_MINIMAL | _REDIS | {"hpa.enabled": "true", "resources.requests.cpu": "null"}, "resources.requests.cpu"),
        (_MINIMAL | _REDIS | {"keda.enabled": "true"}, "keda.prometheus must be"),
        (_MINIMAL | {"redis.password.secret": "redis"}, "need redis.url"),
        (_MINIMAL | _REDIS | {"redis.ca.secret": "redis"}, "rediss://"),
        (_MINIMAL | {"redis.url": "redis://:password@redis"}, "redis.url: Does not match"),
        (_ENCRYPTED | {"podMonitor.enabled": "true"}, "podMonitor.endpoint.tlsConfig"),
        (_MINIMAL | {"podMonitor.enabled": "true", "principals.secret": "callers"}, "podMonitor.endpoint.authoriz"),
        (_MINIMAL | {"settings.store": "memory"}, "set the value redis.url instead"),
        (_MINIMAL | {"settings.openai_listen": "0.0.0.0:80"}, "set the value web.enabled instead"),
        (_MINIMAL | {"settings.openai_hosts": "here"}, "set the value web.hosts instead"),
        (_MINIMAL | {"web.hosts[0]": "https://here"}, "web.hosts.0: Does not match"),
        (_MINIMAL | {"web.hosts[0]": "here"}, "web.hosts needs web.enabled"),
        (_MINIMAL | {"settings.max_lane": "1"}, 'Property name of "max_lane"'),
        (_MINIMAL | {"extraEnv[0].name": "CAROUSEL_LISTEN"}, "write it under settings"),
        (_MINIMAL | {"nonsense": "1"}, "Additional property nonsense is not allowed"),
        (_MINIMAL | {"redis.uri": "1"}, "Additional property uri is not allowed"),
        (_MINIMAL | {"tls": "null"}, "tls is required"),
        (_MINIMAL | {"tls.secret": "Pair_1"}, "tls.secret: Does not match"),
        (_MINIMAL | {"replicas": "-1"}, "replicas: Must be greater than or equal to 0"),
        (_MINIMAL | {"preStopSeconds": "0"}, "preStopSeconds: Must be greater"),
    ],
)
def test_what_is_unsafe_or_loses_sessions_is_refused(values: dict[str, str], told: str) -> None:
    """The message says what to set."""
    done = _template(*_set(values))
    assert done.returncode != 0
    assert told in done.stderr


@needs_helm
def test_the_web_interface_is_reached_where_it_is_wanted() -> None:
    """Its Service keeps a client at one replica, the server knows that Service's names and the given ones, and the
    policy lets its peers in. Without `web.enabled` there is none of it."""
    values = _MINIMAL | {"web.enabled": "true", "web.hosts[0]": "models.example"}
    manifests = _render(*_set(values))
    [service] = [one for one in manifests if one["metadata"]["name"] == "trial-carousel-web"]
    assert service["spec"]["sessionAffinity"] == "ClientIP"
    assert service["spec"]["ports"] == [{"name": "web", "port": 8000, "targetPort": "web", "appProtocol": "http"}]
    hosts = read_settings(_variables(manifests), {}).openai_hosts
    own = [f"trial-carousel-web{rest}" for rest in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
    assert list(hosts) == [*own, "models.example"]
    assert 8000 in _admitted_ports(manifests)
    assert 8000 not in _admitted_ports(_render(*_set(_MINIMAL)))
    assert "CAROUSEL_OPENAI_LISTEN" not in _variables(_render(*_set(_MINIMAL)))


def _admitted_ports(manifests: list[dict[str, Any]]) -> list[int]:
    rules = _of_kind(manifests, "NetworkPolicy")["spec"]["ingress"]
    return [port["port"] for rule in rules for port in rule["ports"]]


@needs_helm
@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("carousel", "carousel"),
        ("trial", "trial-carousel"),
        ("9.9", "c-9-9-carousel"),
        ("a" * 52 + "b", "a" * 41 + "-b07ff1cb"),
        ("a" * 52 + "c", "a" * 41 + "-d6c36979"),
    ],
)
def test_names_are_good_for_services(release: str, name: str) -> None:
    """They begin with a letter, have no dot and 63 characters at most; two long releases have two names."""
    manifests = _render(*_set(_MINIMAL), release=release)
    names = {manifest["metadata"]["name"] for manifest in manifests}
    assert names == {name, f"{name}-http"}
    assert _of_kind(manifests, "Deployment")["metadata"]["labels"]["app.kubernetes.io/instance"] == release


@needs_helm
def test_replicas_without_a_shared_store_never_overlap() -> None:
    """With one, a new pod is ready before an old one leaves."""
    alone = _of_kind(_render(*_set(_MINIMAL)), "Deployment")["spec"]
    assert alone["strategy"] == {"type": "Recreate"}
    several = _of_kind(_render(*_set(_MINIMAL | _REDIS | {"replicas": "3"})), "Deployment")["spec"]
    assert several["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert several["replicas"] == 3
    stopped = _of_kind(_render(*_set(_MINIMAL | {"replicas": "0"})), "Deployment")["spec"]
    assert stopped["replicas"] == 0


@needs_helm
def test_nobody_comes_in_where_no_peer_is_named(tmp_path: Path) -> None:
    """A rule without peers would mean everybody; there is no rule."""
    values = tmp_path / "values.yaml"
    values.write_text("web: {enabled: true}\nnetworkPolicy: {clients: [], scrapers: [], web: []}")
    policy = _of_kind(_render(*_set(_MINIMAL), "--values", str(values)), "NetworkPolicy")["spec"]
    assert not policy["ingress"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]


def test_the_chart_has_the_projects_version() -> None:
    """The image's tag is this version unless another is given."""
    version = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((_CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version
    image = yaml.safe_load((_ROOT / "deploy/kserve/servingruntime.yaml").read_text())["spec"]["containers"][0]["image"]
    assert image == f"carousel:{version}"


def test_the_schema_knows_every_setting_and_value() -> None:
    """`make settings` writes the settings into it."""
    schema = json.loads((_CHART / "values.schema.json").read_text())
    assert schema["properties"]["settings"]["propertyNames"]["enum"] == list(Settings.model_fields)
    assert set(yaml.safe_load((_CHART / "values.yaml").read_text())) == set(schema["required"])


def test_the_runtime_for_kserve_is_restricted_and_starts() -> None:
    """Its container is as the chart's, and the server takes its variables."""
    spec = yaml.safe_load((_ROOT / "deploy/kserve/servingruntime.yaml").read_text())["spec"]
    [container] = spec["containers"]
    _assert_restricted(container)
    assert read_settings({one["name"]: one["value"] for one in container["env"]}, {}).listen == "0.0.0.0:50051"
    assert [port["name"] for port in container["ports"]] == ["h2c"]

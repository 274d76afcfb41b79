"""The wheel installs and serves in an empty environment with no checkout beside it, and brings its types."""

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.bundles import write_bundle
from tests.packaging.environments import ROOT, clean_environ, make_environment

pytestmark = pytest.mark.packaging

_PACKAGES = ("carousel", "carousel_training", "carousel_export")
_READY = re.compile(r"serving gRPC on (\S+), HTTP on")
_PROGRAM = """
from carousel.client import Client

with Client("here:1") as client:
    reveal_type(client.predict("a").words[0].probability)
"""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel and what it needs, and a folder to work in, far from the checkout."""

    bin: Path
    folder: Path

    def run(self, *arguments: str) -> str:
        command = [str(self.bin / arguments[0]), *arguments[1:]]
        done = subprocess.run(
            command, cwd=self.folder, env=clean_environ(), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    place = tmp_path_factory.mktemp("empty")
    programs = make_environment(place / "env")
    constraints = shutil.copy(ROOT / "constraints.txt", place)
    pip = [str(programs / "pip"), "install", "--quiet", "--constraint", str(constraints), str(wheel)]
    subprocess.run(pip, cwd=place, env=clean_environ(), check=True)
    return Installed(programs, place)


@contextmanager
def _served(installed: Installed) -> Iterator[str]:
    write_bundle(installed.folder / "bundle")
    command = [str(installed.bin / "carousel"), "serve", "bundle", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    with subprocess.Popen(
        command, cwd=installed.folder, env=clean_environ(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            ready = _READY.match(server.stdout.readline())
            assert ready is not None
            yield ready[1]
            server.terminate()
            assert server.wait(30) == 0
        finally:
            server.kill()


def test_the_wheel_holds_the_packages_with_their_types_and_nothing_else(wheel: Path) -> None:
    """The wheel has no tests and no bench; the scripts of the Redis store, the stubs of the wire contract and the files
    of the page are there."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(_PACKAGES)
    assert {f"{package}/py.typed" for package in _PACKAGES} <= set(names)
    assert "carousel/v1/types_pb2.pyi" in names
    page = {path.name for path in (ROOT / "server/carousel/web/page").iterdir()}
    assert {name.rpartition("/")[2] for name in names if name.startswith("carousel/web/page/")} == page
    assert sum(name.endswith(".lua") for name in names) == len(list((ROOT / "server").rglob("*.lua")))


def test_it_serves_where_nothing_else_is(installed: Installed) -> None:
    """The installed package alone serves and calls, from the first token to a drain."""
    with _served(installed) as address:
        assert len(installed.run("carousel", "tokenize", "abc", "--address", address).splitlines()) == 3
        ids = installed.run("carousel", "generate", "1 2", "--ids", "--address", address, "--max-tokens", "5")
        assert len(ids.split()) == 5


def test_commands_that_need_more_say_so(installed: Installed) -> None:
    """Training and export are in the wheel; what they need is an extra."""
    for name in ("carousel-train", "carousel-export"):
        done = subprocess.run([installed.bin / name], cwd=installed.folder, env=clean_environ(), capture_output=True)
        assert done.returncode == 2
        assert b"torch is not installed; pip install 'carousel-serving[" in done.stderr


def test_it_runs_from_where_it_was_installed(installed: Installed) -> None:
    """No path leads back to the checkout, and neither torch nor a build tool is installed."""
    told = installed.run(
        "python", "-c", "import carousel.app, sys; print(carousel.__file__ or carousel.__path__, sys.path)"
    )
    assert str(ROOT) not in told
    names = installed.run("pip", "list", "--format", "freeze").lower()
    assert not re.search(r"^(torch|onnx|grpcio-tools|matplotlib)==", names, re.MULTILINE)


def test_a_type_checker_reads_its_types(installed: Installed) -> None:
    """A type checker accepts a program that uses the client, in strict mode."""
    program = installed.folder / "program.py"
    program.write_text(_PROGRAM)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        str(installed.folder / "cache"),
    ]
    command += ["--python-executable", str(installed.bin / "python"), str(program)]
    done = subprocess.run(
        command, cwd=installed.folder, env=clean_environ(), capture_output=True, text=True, timeout=240
    )
    assert 'Revealed type is "float"' in done.stdout.replace("builtins.", "")
    assert done.returncode == 0, done.stdout

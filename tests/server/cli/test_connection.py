"""Options of the commands that talk to a server: encryption, and the caller's token."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.certificates import Authority
from tests.server.cli.conftest import Fake, Run
from tests.server.fake_service import serve_fake

from carousel.cli.main import build_commands


@pytest.fixture
def files(tmp_path: Path) -> Authority:
    """`ca.crt`, `server.*` and a caller's `me.*` in the folder."""
    authority = Authority()
    authority.write_own(tmp_path)
    for name in ("server", "me"):
        authority.write(tmp_path, name)
    return authority


@pytest.fixture
def ask(files: Authority, tmp_path: Path, run: Run) -> Iterator[Callable[..., object]]:
    """Runs `carousel health` against a server that asks for certificates."""
    pair = ((tmp_path / "server.key").read_bytes(), (tmp_path / "server.crt").read_bytes())
    with serve_fake(credentials=grpc.ssl_server_credentials([pair], files.pem, True)) as (address, _, _):
        yield lambda *options: run("health", "--timeout", "5", "--address", address, *options)


def named(folder: Path, *names: str) -> list[str]:
    files = {"ca": "ca.crt", "cert": "me.crt", "key": "me.key"}
    return [part for name in names for part in (f"--{name}", str(folder / files[name]))]


def test_options_encrypt_the_connection(ask: Run, tmp_path: Path) -> None:
    """All of them are needed here; with fewer the server does not answer."""
    assert ask("--tls", *named(tmp_path, "ca", "cert", "key")).code == 0
    assert ask("--tls", *named(tmp_path, "ca")).code == 1
    assert ask().code == 1


def test_the_environment_does_the_same(ask: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For health checks, whose command line nobody changes."""
    monkeypatch.setenv("CAROUSEL_TLS", "1")
    for name, file in (("CA", "ca.crt"), ("CLIENT_CERT", "me.crt"), ("CLIENT_KEY", "me.key")):
        monkeypatch.setenv(f"CAROUSEL_{name}", str(tmp_path / file))
    assert ask().code == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--ca", "ca.crt"], "--ca goes with --tls"),
        (["--tls", "--cert", "me.crt"], "--cert and --key go together"),
        (["--tls", "--ca", "nowhere.crt"], "nowhere.crt: No such file or directory"),
    ],
)
def test_bad_options_are_refused_in_a_line(
    run: Run, files: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = run("models", *options)
    assert (refused.code, refused.err) == (1, f"carousel: {why}\n")


TOKEN = "crl_" + "t" * 43


def seen_tokens(fake: Fake) -> set[str]:
    return {call.metadata.get("authorization", "") for call in fake.service.seen}


def test_the_token_comes_from_a_file(run: Run, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or from the environment; the file wins. A line's end is no part of it."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("CAROUSEL_TOKEN", TOKEN.upper())
    assert run("models", "--token-file", str(tmp_path / "token")).code == 0
    assert seen_tokens(fake) == {f"Bearer {TOKEN}"}
    fake.service.seen.clear()
    assert run("models").code == 0
    assert seen_tokens(fake) == {f"Bearer {TOKEN.upper()}"}
    fake.service.seen.clear()
    monkeypatch.delenv("CAROUSEL_TOKEN")
    monkeypatch.setenv("CAROUSEL_TOKEN_FILE", str(tmp_path / "token"))
    assert run("generate", "a").code == 0
    assert seen_tokens(fake) == {f"Bearer {TOKEN}"}


def test_without_a_token_none_is_sent(run: Run, fake: Fake) -> None:
    assert run("models").code == 0
    assert seen_tokens(fake) == {""}


def test_a_token_stays_on_this_machine_unless_it_is_encrypted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any call. The error says what to do; somebody who says so may send it."""
    monkeypatch.setenv("CAROUSEL_TOKEN", TOKEN)
    away = ("models", "--address", "203.0.113.7:1")
    refused = run(*away)
    assert (refused.code, refused.err) == (
        1,
        "carousel: the token would go to 203.0.113.7:1 unencrypted; use --tls, or allow it with --plaintext-token\n",
    )
    monkeypatch.setenv("CAROUSEL_ADDRESS", "dns:///nowhere.invalid:1")
    assert "does not answer" in run("health", "--timeout", "0.2", "--plaintext-token").err


@pytest.mark.parametrize("content", ["", "two words", "a\nb"])
def test_what_is_no_token_is_refused_in_a_line(run: Run, tmp_path: Path, content: str) -> None:
    """With the file's name, and not with its content."""
    (tmp_path / "token").write_text(content)
    refused = run("models", "--token-file", str(tmp_path / "token"))
    assert refused.code == 1
    assert (
        refused.err == f"carousel: {tmp_path / 'token'}: token: must be visible ASCII without spaces, and not empty\n"
    )
    assert "nowhere: No such file" in run("models", "--token-file", str(tmp_path / "nowhere")).err


def test_every_command_with_an_address_has_them() -> None:
    """And no other: a server has settings of its own."""
    commands: Any = build_commands()
    found = {name: commands.get_command(None, name) for name in commands.list_commands(None)}
    del found["token"]
    sessions = found.pop("sessions")
    found |= {f"sessions {name}": sessions.get_command(None, name) for name in sessions.list_commands(None)}
    for name, command in found.items():
        options = {option.name for option in command.params}
        assert ("address" in options) == ({"tls", "ca", "cert", "key", "token_file"} <= options), name
        assert ("address" in options) == (name not in ("serve", "settings", "new-key")), name

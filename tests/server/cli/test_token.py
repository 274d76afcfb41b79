"""A new token identifies the principal that is printed with it, and no other."""

from pathlib import Path

import pytest
from tests.server.cli.conftest import Run

from carousel.identity.principals import read_principals
from carousel.identity.scopes import Scope


def test_what_is_printed_is_a_file_that_knows_the_token(run: Run, tmp_path: Path) -> None:
    """As it stands. The token itself is not in it: it is on standard error, once."""
    made = run("token", "new", "team/search")
    token = made.err.splitlines()[0].rpartition(" ")[2]
    path = tmp_path / "principals.toml"
    path.write_text(made.out)
    principal = read_principals(path).of_token(token)
    assert made.code == 0
    assert principal is not None
    assert principal.name == "team/search"
    assert principal.scopes == {Scope.GENERATE, Scope.SCORE, Scope.SESSIONS}
    assert (made.out.count(token), made.err.count(token)) == (0, 1)


def test_two_tokens_differ_and_are_long(run: Run) -> None:
    """32 random bytes are 43 letters."""
    tokens = {run("token", "new", "a").err.splitlines()[0].rpartition(" ")[2] for _ in range(3)}
    assert len(tokens) == 3
    assert all(len(token.removeprefix("crl_")) == 43 for token in tokens)


def test_scopes_are_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "principals.toml"
    path.write_text(run("token", "new", "prometheus", "--scope", "metrics").out)
    assert 'scopes = ["metrics"]' in path.read_text()
    assert len(read_principals(path)) == 1


@pytest.mark.parametrize("name", ["", "a b", 'a"', "a\nb", "x" * 129])
def test_a_name_that_no_file_may_have_is_refused(run: Run, name: str) -> None:
    refused = run("token", "new", name)
    assert (refused.code, refused.out) == (1, "")
    assert "is no name" in refused.err

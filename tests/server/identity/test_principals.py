"""Principals are read from TOML; whatever is wrong is named, and no file makes two principals of one."""

import re
from pathlib import Path

import pytest

from carousel.identity.principals import MIN_TOKEN_BYTES, Principals, digest, read_principals
from carousel.identity.scopes import Scope
from carousel.quotas import Quota
from carousel.shares import OwnerLimits

TOKEN, OTHER = "t" * 43, "o" * 43
GOOD = f"""
[[principal]]
name = "search"
tokens = ["{digest(TOKEN)}", "{digest(OTHER)}"]
scopes = ["generate", "score"]

[[principal]]
name = "ops"
certificates = ["spiffe://cluster/ops", "ops.example"]
scopes = ["admin"]
owner = "anonymous-before"
models = ["demo"]
"""

QUOTA = """
[[principal]]
name = "a"
scopes = []
[principal.quota]
{}
"""


def read(tmp_path: Path, text: str | bytes) -> Principals:
    path = tmp_path / "principals.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_principals(path)


def test_each_token_of_a_principal_identifies_it(tmp_path: Path) -> None:
    """Two at a time, while one replaces the other; the hash itself is no token."""
    principals = read(tmp_path, GOOD)
    for token in (TOKEN, OTHER):
        found = principals.of_token(token)
        assert found is not None
        assert (found.name, found.owner_name) == ("search", "search")
    for wrong in ("", TOKEN[:-1], TOKEN + " ", digest(TOKEN), "\ud800"):
        assert principals.of_token(wrong) is None


def test_a_token_that_could_be_guessed_is_nobodys(tmp_path: Path) -> None:
    """Whatever the file says of it."""
    short, long = "s" * (MIN_TOKEN_BYTES - 1), "s" * MIN_TOKEN_BYTES
    for token in ("", short, long):
        found = read(tmp_path, GOOD.replace(digest(TOKEN), digest(token))).of_token(token)
        assert (found is not None) == (token == long)


def test_each_name_in_a_certificate_identifies_its_principal(tmp_path: Path) -> None:
    """The first one that somebody has counts; a part of a name is no name."""
    principals = read(tmp_path, GOOD)
    for subjects in (["spiffe://cluster/ops"], ["unknown", "ops.example"]):
        found = principals.of_certificate(subjects)
        assert found is not None
        assert (found.name, found.owner_name) == ("ops", "anonymous-before")
    assert principals.of_certificate(["spiffe://cluster/ops/x", "example"]) is None
    assert principals.of_certificate([]) is None


def test_a_scope_is_what_it_says_and_admin_is_all(tmp_path: Path) -> None:
    principals = read(tmp_path, GOOD)
    search, ops = principals.of_token(TOKEN), principals.of_certificate(["ops.example"])
    assert search is not None
    assert ops is not None
    assert [scope for scope in Scope if search.may([scope])] == [Scope.GENERATE, Scope.SCORE]
    assert all(ops.may([scope]) for scope in Scope)
    assert search.may([Scope.METRICS, Scope.SCORE])
    assert not search.may([])
    assert (search.may_use("any"), ops.may_use("demo"), ops.may_use("other")) == (True, True, False)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "principal: "),
        ("[[principal]", "is not TOML"),
        (b"\xff", "is not TOML"),
        ("principals = 3", "unknown setting principals; did you mean principal?"),
        ('[[principal]]\nname = "a"', "principal 1: scopes: Field required"),
        ('[[principal]]\nname = "a b"\nscopes = []', "principal 1: name: "),
        (
            '[[principal]]\nname = "a"\nscope = []\nscopes = []',
            "principal 1: unknown setting scope; did you mean scopes?",
        ),
        ('[[principal]]\nname = "a"\nscopes = ["root"]', "principal 1: scopes: "),
        ('[[principal]]\nname = "a"\nscopes = []\nquotas = 3', "principal 1: unknown setting quotas"),
        ('[[principal]]\nname = "a"\nscopes = []\ntokens = ["secret"]', "principal 1: tokens: "),
        (QUOTA.format("max_session = 3"), "principal 1: unknown setting"),
        (QUOTA.format("max_sessions = 0"), "principal 1: quota"),
        (QUOTA.format("max_requests_per_second = 0"), "principal 1: quota"),
        (QUOTA.format("max_tokens_per_second = nan"), "principal 1: quota"),
        (QUOTA.format("").replace("scopes", "forwards = true\nscopes"), "quota: not for a principal that forwards"),
        (
            QUOTA.format("") + QUOTA.format("").replace('"a"', '"b"\nowner = "a"'),
            "quota of the owner: a stands there twice",
        ),
        (GOOD.replace('"ops"', '"search"'), "name: search stands there twice"),
        (
            GOOD + f'[[principal]]\nname="c"\nscopes=[]\ntokens=["{digest(TOKEN)}"]',
            r"tokens: \w{12}\.\.\. stands there twice",
        ),
        (GOOD + '[[principal]]\nname="c"\nscopes=[]\ncertificates=["ops.example"]', "certificates: ops.example stands"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, why: str) -> None:
    """With the file, and the number of the principal that has it."""
    with pytest.raises(ValueError, match=why if "\\w" in why else re.escape(why)) as raised:
        read(tmp_path, text)
    assert "principals.toml" in str(raised.value)


def test_quotas_are_for_owners(tmp_path: Path) -> None:
    """One for each owner that has a principal of its own, with what its principal states; who forwards has none."""
    text = QUOTA.format("max_sessions = 3\nmax_tokens_per_second = 7.5")
    others = """
[[principal]]
name = "b"
owner = "a"
scopes = []
[[principal]]
name = "c"
owner = "team"
scopes = []
[[principal]]
name = "d"
forwards = true
scopes = []
"""
    assert read(tmp_path, others + text).quotas == [
        Quota("a", "a", OwnerLimits(max_sessions=3), None, 7.5),
        Quota("c", "team", OwnerLimits()),
    ]


def test_no_message_repeats_a_token(tmp_path: Path) -> None:
    """Somebody who puts a token where its hash belongs does not find it in the log."""
    with pytest.raises(ValueError, match="tokens") as raised:
        read(tmp_path, f'[[principal]]\nname = "a"\nscopes = []\ntokens = ["{TOKEN}"]')
    assert TOKEN not in str(raised.value)

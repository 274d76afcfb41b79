"""Whoever calls is known, may do it, and sees the sessions of one owner; everything else is refused alike."""

from pathlib import Path
from typing import Any

import pytest

from carousel.errors import CarouselError, Overloaded, PermissionDenied, Unauthenticated
from carousel.identity.attempts import WrongAttempts, host_of
from carousel.identity.doorkeeper import Admission, Doorkeeper, Evidence, name_subjects
from carousel.identity.principals import Principals, digest, read_principals
from carousel.identity.scopes import HEALTH, OF_SERVER, PROBES, REFLECTION
from carousel.identity.watched_files import WatchedFiles

TOKENS = {name: f"crl_{name}{'x' * 40}" for name in ("search", "proxy", "ops", "bare")}
FILE = f"""
[[principal]]
name = "search"
tokens = ["{digest(TOKENS["search"])}"]
certificates = ["spiffe://cluster/search", "search.example"]
scopes = ["generate"]

[[principal]]
name = "proxy"
tokens = ["{digest(TOKENS["proxy"])}"]
scopes = ["generate", "sessions"]
forwards = true

[[principal]]
name = "ops"
tokens = ["{digest(TOKENS["ops"])}"]
scopes = ["admin"]
owner = "before"

[[principal]]
name = "bare"
tokens = ["{digest(TOKENS["bare"])}"]
scopes = ["generate", "score"]
models = ["another"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "principals.toml"
    path.write_text(FILE)
    return path


@pytest.fixture
def files(path: Path) -> WatchedFiles[Principals]:
    return WatchedFiles("principals", [path], lambda: read_principals(path), lambda name, is_good: None)


@pytest.fixture
def door(files: WatchedFiles[Principals]) -> Doorkeeper:
    return Doorkeeper("x-owner", files, "demo")


def bearer(name: str, *more: tuple[str, str], **facts: Any) -> Evidence:
    return Evidence((("authorization", f"Bearer {TOKENS[name]}"), *more), **facts)


def test_a_token_says_who_calls(door: Doorkeeper) -> None:
    """Its principal is the owner, unless the file names another."""
    assert door.admit("Generate", bearer("search")) == Admission("search", "search")
    assert door.admit("CreateSession", bearer("ops")) == Admission("before", "ops")
    lower = Evidence((("Authorization", f"bearer {TOKENS['search']}".encode()),))
    assert door.admit("Predict", lower) == Admission("search", "search")


def test_a_certificate_says_it_where_there_is_no_token(door: Doorkeeper) -> None:
    """A token decides, also a wrong one."""
    by_name = Evidence(read_subjects=lambda: ["unknown", "search.example"])
    assert door.admit("Generate", by_name).principal == "search"
    assert door.admit("Generate", bearer("ops", read_subjects=lambda: ["search.example"])).principal == "ops"
    wrong = Evidence((("authorization", "Bearer wrong"),), read_subjects=lambda: ["search.example"])
    with pytest.raises(Unauthenticated):
        door.admit("Generate", wrong)


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(),
        Evidence((("authorization", ""),)),
        Evidence((("authorization", "Bearer"),)),
        Evidence((("authorization", "Bearer "),)),
        Evidence((("authorization", TOKENS["search"]),)),
        Evidence((("authorization", f"Basic {TOKENS['search']}"),)),
        Evidence((("authorization", f"Bearer {digest(TOKENS['search'])}"),)),
        Evidence((("authorization", f"Bearer {TOKENS['search'][:-1]}"),)),
        Evidence((("authorization", f"Bearer {TOKENS['search']}x"),)),
        Evidence((("authorization", b"Bearer \xff\xfe"),)),
        Evidence((("authorization", f"Bearer {TOKENS['search']}"), ("authorization", f"Bearer {TOKENS['search']}"))),
        Evidence((("x-owner", "search"),)),
        Evidence(read_subjects=lambda: ["spiffe://cluster/searc"]),
    ],
)
def test_who_is_unknown_is_told_nothing_else(door: Doorkeeper, evidence: Evidence) -> None:
    """Missing, unknown, malformed and doubled have one answer."""
    with pytest.raises(Unauthenticated) as raised:
        door.admit("Generate", evidence)
    assert str(raised.value) == "the call needs a token or a certificate that this server knows"


@pytest.mark.parametrize(
    ("name", "method", "error"),
    [
        ("search", "Score", PermissionDenied),
        ("search", "ListSessions", PermissionDenied),
        ("search", "/metrics", PermissionDenied),
        ("search", "MethodOfTomorrow", PermissionDenied),
        ("search", "GetModel", None),
        ("search", "Tokenize", None),
        ("ops", "MethodOfTomorrow", PermissionDenied),
        ("ops", "/metrics", None),
        ("bare", "Generate", PermissionDenied),
        ("bare", "ListModels", None),
    ],
)
def test_a_method_needs_its_scope_and_its_model(
    door: Doorkeeper, name: str, method: str, error: type[CarouselError] | None
) -> None:
    """What nobody has thought of is for nobody, not for `admin` either."""
    if error is None:
        door.admit(method, bearer(name))
        return
    with pytest.raises(error):
        door.admit(method, bearer(name))


def test_only_who_forwards_names_owners(door: Doorkeeper) -> None:
    """For others the key means nothing. Who forwards names one, each time."""
    assert door.admit("Generate", bearer("proxy", ("x-owner", "ann"))).owner == "ann"
    assert door.admit("Generate", bearer("search", ("x-owner", "ann"))).owner == "search"
    for more in ((), (("x-owner", "ann"), ("x-owner", "bob")), (("x-owner", ""),)):
        with pytest.raises(Unauthenticated, match="x-owner"):
            door.admit("Generate", bearer("proxy", *more))


def test_without_an_owner_key_who_forwards_is_its_own_owner(files: WatchedFiles[Principals]) -> None:
    assert Doorkeeper("", files, "demo").admit("Generate", bearer("proxy", ("x-owner", "ann"))).owner == "proxy"


def test_a_changed_file_counts_at_once(door: Doorkeeper, files: WatchedFiles[Principals], path: Path) -> None:
    """Who stands there no more is unknown; a bad file changes nobody."""
    path.write_text("nothing")
    files.look()
    door.admit("Generate", bearer("search"))
    path.write_text(FILE.replace(digest(TOKENS["search"]), digest("another")))
    files.look()
    with pytest.raises(Unauthenticated):
        door.admit("Generate", bearer("search"))


def test_many_wrong_attempts_wait_and_right_ones_do_not(door: Doorkeeper) -> None:
    """By host: whoever shares it and is right is served, and other hosts are not held up."""
    wrong, other = Evidence(peer="ipv4:10.0.0.1:5"), Evidence(peer="ipv4:10.0.0.2:5")
    codes = []
    for _ in range(50):
        with pytest.raises((Unauthenticated, Overloaded)) as raised:
            door.admit("Generate", wrong)
        codes.append(type(raised.value))
    assert codes[:20] == [Unauthenticated] * 20
    assert codes[21:] == [Overloaded] * 29
    door.admit("Generate", bearer("search", peer="ipv4:10.0.0.1:6"))
    with pytest.raises(Unauthenticated):
        door.admit("Generate", other)


def test_the_rate_recovers_and_hosts_are_forgotten() -> None:
    """One attempt in three seconds after the first ones; the memory is bounded."""
    now = 0.0
    attempts = WrongAttempts(burst=2, seconds_each=3.0, clock=lambda: now)
    assert [attempts.wait_seconds("a") for _ in range(4)] == [0.0, 0.0, 3.0, 3.0]
    now = 2.0
    assert attempts.wait_seconds("a") == 1.0
    now = 3.0
    assert [attempts.wait_seconds("a") for _ in range(2)] == [0.0, 3.0]
    now = 1000.0
    assert [attempts.wait_seconds("a") for _ in range(3)] == [0.0, 0.0, 3.0]
    for number in range(5000):
        attempts.wait_seconds(str(number))
    assert repr(attempts) == "WrongAttempts(4096 hosts)"


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:4242", "ipv4:10.0.0.1"),
        ("ipv6:%5B2001:db8:0:7:1::9%5D:4242", "2001:db8:0:7::/64"),
        ("ipv6:%5B2001:db8:0:7:2::8%5D:4242", "2001:db8:0:7::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4242", "fe80::/64"),
        ("ipv6:%5B::1%5D:4242", "::/64"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:4242", "::ffff:a00:1"),
        ("ipv6:%5B64:ff9b::a00:2%5D:4242", "64:ff9b::a00:2"),
        ("ipv6:nonsense", "ipv6:nonsense"),
        ("unix:/run/carousel", "unix:/run/carousel"),
        ("", ""),
    ],
)
def test_a_peer_is_known_by_its_host(peer: str, host: str) -> None:
    assert host_of(peer) == host


def test_a_common_name_is_no_spiffe_id() -> None:
    """An authority that lets callers choose it would let them choose who they are."""
    assert name_subjects(["spiffe://a/b", "https://c"], ["me", "spiffe://a/ops", "SPIFFE://x"]) == [
        "spiffe://a/b",
        "me",
    ]


@pytest.mark.parametrize(
    ("key", "metadata", "owner"),
    [
        ("", (("x-owner", "ann"),), ""),
        ("x-owner", (("other", "bob"), ("x-owner", "ann"), ("x-owner2", "bob")), "ann"),
        ("x-owner", (("X-Owner", b"ann"),), "ann"),
    ],
)
def test_without_principals_the_owner_is_who_the_proxy_says(
    key: str, metadata: tuple[tuple[str, str | bytes], ...], owner: str
) -> None:
    """Only the configured key names the caller; without it everybody is anonymous, and may do everything."""
    assert Doorkeeper(key).admit("Anything", Evidence(metadata)) == Admission(owner)


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("other", "ann"),),
        (("x-owner", ""),),
        (("x-owner", "ann"), ("x-owner", "ann")),
        (("x-owner", ""), ("x-owner", "ann")),
        (("x-owner", "ann"), ("X-Owner", "bob")),
    ],
)
def test_who_is_not_named_exactly_once_is_nobody(metadata: tuple[tuple[str, str], ...]) -> None:
    """Missing, empty and doubled names are refused, and the refusal says which key is meant."""
    with pytest.raises(Unauthenticated, match="x-owner"):
        Doorkeeper("x-owner").admit("Generate", Evidence(metadata))


def test_only_calls_of_an_owner_name_one(files: WatchedFiles[Principals]) -> None:
    """The server itself is asked for nobody, with principals or without."""
    everybody, known = Doorkeeper("x-owner"), Doorkeeper("x-owner", files, "demo")
    for call in OF_SERVER:
        assert everybody.admit(call, Evidence()) == Admission("")
    assert known.admit(HEALTH, bearer("proxy")) == Admission("proxy", "proxy")


def test_what_is_anonymous_needs_no_identity(files: WatchedFiles[Principals]) -> None:
    """Probes never; what else, the composition says. A wrong token does no harm there."""
    door = Doorkeeper("x-owner", files, "demo")
    for call in PROBES:
        assert door.admit(call, Evidence((("authorization", "Bearer wrong"),))) == Admission("")
    with pytest.raises(Unauthenticated):
        door.admit(HEALTH, Evidence())
    open_door = Doorkeeper("x-owner", files, "demo", anonymous=[HEALTH])
    assert open_door.admit(HEALTH, Evidence()) == Admission("")
    with pytest.raises(Unauthenticated):
        open_door.admit(REFLECTION, Evidence())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (('name = "proxy"', 'name = "other"'), None),
        ((digest(TOKENS["search"]), digest("another")), Unauthenticated),
        (('scopes = ["generate"]', 'scopes = ["score"]'), PermissionDenied),
        (('scopes = ["generate"]', 'scopes = ["generate"]\nowner = "new"'), Unauthenticated),
    ],
)
def test_open_calls_are_asked_again(
    door: Doorkeeper,
    files: WatchedFiles[Principals],
    path: Path,
    change: tuple[str, str],
    error: type[Exception] | None,
) -> None:
    """Whoever would be refused now, or be somebody else, does not go on. It counts as no wrong attempt."""
    admission = door.admit("Generate", bearer("search"))
    path.write_text(FILE.replace(*change))
    files.look()
    for _ in range(50):
        if error is None:
            door.check_again("Generate", bearer("search"), admission)
        else:
            with pytest.raises(error):
                door.check_again("Generate", bearer("search"), admission)


def test_without_principals_open_calls_go_on() -> None:
    Doorkeeper("x-owner").check_again("Generate", Evidence(), Admission("ann"))

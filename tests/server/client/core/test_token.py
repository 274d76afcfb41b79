"""A token goes where nobody else can read it, and into no message."""

from typing import Any

import pytest

from carousel.client.core.connection import Connection
from carousel.client.core.token import bearer, stays_here

TOKEN = "crl_" + "t" * 43
AWAY = "server.example:50051"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50051",
        "127.9.9.9:1",
        "localhost:50051",
        "localhost",
        "[::1]:50051",
        "::1",
        "dns:///localhost:50051",
        "dns://8.8.8.8/localhost:50051",
        "dns:localhost:1",
        "ipv4:127.0.0.1:1,127.0.0.2:2",
        "ipv6:[::1]:1",
        "unix:/run/carousel",
        "unix-abstract:carousel",
    ],
)
def test_this_machine_is_known(address: str) -> None:
    """In each way that gRPC names it."""
    assert stays_here(address)


@pytest.mark.parametrize(
    "address",
    [
        AWAY,
        "10.0.0.1:50051",
        "0.0.0.0:50051",
        "[2001:db8::7]:50051",
        "localhost.example:1",
        "127.0.0.1.example:1",
        "dns:///server.example:1",
        "dns://127.0.0.1/server.example:1",
        "ipv4:127.0.0.1:1,10.0.0.1:2",
        "xds:///localhost",
        "",
    ],
)
def test_other_machines_are_known(address: str) -> None:
    """So is what cannot be told."""
    assert not stays_here(address)


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("localhost:1", {"is_encrypted": False, "plaintext": False}),
        (AWAY, {"is_encrypted": True, "plaintext": False}),
        (AWAY, {"is_encrypted": False, "plaintext": True}),
    ],
)
def test_a_token_is_sent_where_it_is_safe_or_allowed(address: str, options: Any) -> None:
    """As a bearer token, which the connection does not show."""
    metadata = bearer(TOKEN, address, **options)
    assert metadata == (("authorization", f"Bearer {TOKEN}"),)
    assert TOKEN not in repr(Connection(address, None, None, metadata))


def test_a_token_does_not_leave_unencrypted() -> None:
    """The error says what to do, and no token."""
    with pytest.raises(ValueError, match=f"^token: it would go to {AWAY} unencrypted; use tls") as raised:
        bearer(TOKEN, AWAY, is_encrypted=False, plaintext=False)
    assert TOKEN not in str(raised.value)
    assert bearer(None, AWAY, is_encrypted=False, plaintext=False) == ()


@pytest.mark.parametrize("token", ["", "two words", "line\n", "sw\u00f6rdfish", "tab\t"])
def test_what_no_header_carries_is_no_token(token: str) -> None:
    """It is refused before any call, and not repeated."""
    with pytest.raises(ValueError, match="token: must be visible ASCII") as raised:
        bearer(token, "localhost:1", is_encrypted=True, plaintext=True)
    assert not token or token not in str(raised.value)

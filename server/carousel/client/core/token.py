"""The caller's token: how calls carry it, and where it may go."""

import ipaddress
import re

from carousel.client.core.options import Metadata

_TOKEN = re.compile(r"[!-~]+")  # visible ASCII
_SCHEMES = re.compile(r"^(?:dns:(?://[^/]*/)?|ipv[46]:)")


def bearer(token: str | None, address: str, *, is_encrypted: bool, plaintext: bool) -> Metadata:
    """Returns the metadata that carries the token; none without a token. Raises ValueError as `check_token` does, and
    for a token that would leave this machine unencrypted, unless `plaintext` allows it."""
    if token is None:
        return ()
    check_token(token)
    if not (is_encrypted or plaintext or stays_here(address)):
        raise ValueError(f"token: it would go to {address} unencrypted; use tls, or allow it with plaintext_token")
    return (("authorization", f"Bearer {token}"),)


def check_token(token: str) -> None:
    """Raises ValueError for a token that no header can carry. The message does not repeat it."""
    if not _TOKEN.fullmatch(token):
        raise ValueError("token: must be visible ASCII without spaces, and not empty")


def stays_here(address: str) -> bool:
    """Returns whether a gRPC target is on this machine, all of its hosts if there are several."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    return all(_is_loopback(one) for one in _SCHEMES.sub("", address).split(","))


def _is_loopback(place: str) -> bool:
    """`place` is a host, with or without a port; an IPv6 host with a port is in brackets."""
    bracketed = re.fullmatch(r"\[(.*)\](?::\d+)?", place)
    host = bracketed[1] if bracketed else place if place.count(":") > 1 else place.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

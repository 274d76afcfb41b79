"""Who calls is who the proxy names, exactly once; nobody is taken for somebody else."""

import pytest

from carousel.errors import Unauthenticated
from carousel.sessions.callers import Callers

Metadata = tuple[tuple[str, str | bytes], ...]


@pytest.mark.parametrize(
    ("key", "metadata", "owner"),
    [
        ("", (("x-owner", "ann"),), ""),
        ("", None, ""),
        ("x-owner", (("x-owner", "ann"),), "ann"),
        ("x-owner", (("other", "bob"), ("x-owner", "ann"), ("x-owner2", "bob")), "ann"),
        ("x-owner", (("X-Owner", "ann"),), "ann"),
    ],
)
def test_the_owner_is_who_the_proxy_says(key: str, metadata: Metadata | None, owner: str) -> None:
    """Only the configured key names the caller; without it everybody is anonymous."""
    assert Callers(key).identify(metadata) == owner


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        (),
        (("other", "ann"),),
        (("x-owner", ""),),
        (("x-owner", "ann"), ("x-owner", "bob")),
        (("x-owner", "ann"), ("x-owner", "ann")),
        (("x-owner", ""), ("x-owner", "ann")),
        (("x-owner", "ann"), ("X-Owner", "bob")),
    ],
)
def test_who_is_not_named_exactly_once_is_nobody(metadata: Metadata | None) -> None:
    """Missing, empty and doubled names are refused, and the refusal says which key is meant."""
    with pytest.raises(Unauthenticated, match="x-owner"):
        Callers("x-owner").identify(metadata)

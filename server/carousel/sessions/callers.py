"""Who calls, as a trusted proxy says it in the call's metadata."""

from collections.abc import Iterable

from carousel.errors import Unauthenticated


class Callers:
    """`key` is the metadata key, in lower case; empty where nobody names callers and all are one anonymous owner."""

    def __init__(self, key: str) -> None:
        self._key = key

    def identify(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """Raises Unauthenticated unless exactly one value, not empty, names the caller: a header that a client put
        beside the proxy's must not win."""
        if not self._key:
            return ""
        named = [value for key, value in metadata or () if key.lower() == self._key]
        if len(named) != 1 or not named[0]:
            raise Unauthenticated(f"the call must name its caller once, in {self._key}")
        return named[0] if isinstance(named[0], str) else named[0].decode("utf-8", errors="backslashreplace")

"""The caller's identity, which a trusted proxy writes into the call's metadata."""

from collections.abc import Iterable

from carousel.errors import Unauthenticated


class Callers:
    """Identifies callers by the metadata key `key`, in lower case. With an empty key, all are one anonymous owner."""

    def __init__(self, key: str) -> None:
        self._key = key

    def identify(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
        """Returns the caller's name. Raises Unauthenticated unless there is exactly one value and it is not empty: a
        header that a client adds beside the proxy's must not win."""
        if not self._key:
            return ""
        named = [value for key, value in metadata or () if key.lower() == self._key]
        if len(named) != 1 or not named[0]:
            raise Unauthenticated(f"the call must name its caller once, in {self._key}")
        return named[0] if isinstance(named[0], str) else named[0].decode("utf-8", errors="backslashreplace")

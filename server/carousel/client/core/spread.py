"""Which of several connections to one address a call takes. Servers that share a port get connections, not calls."""

import itertools
import secrets
import zlib


class Spread:
    """The calls of one session keep to one connection, so that one server holds the session; others take turns."""

    def __init__(self, num_connections: int) -> None:
        self.num_connections = num_connections
        self._turns = itertools.count()

    def choose(self, name: str) -> int:
        """Returns the number of a connection. `name` is a session's, or that of a place of sessions; empty: neither."""
        if self.num_connections == 1:
            return 0
        return (zlib.crc32(name.encode(errors="surrogatepass")) if name else next(self._turns)) % self.num_connections

    def make_name(self, number: int) -> str:
        """Returns a random name whose calls take this connection; numbers beyond the last begin again."""
        while self.choose(name := secrets.token_hex(16)) != number % self.num_connections:
            pass
        return name

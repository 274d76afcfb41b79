"""A port that all workers listen on. It is bound once, and stays bound while workers come and go.

A socket that is bound and does not listen gets no connections. With SO_REUSEPORT, each worker binds the same port and
listens, and the kernel spreads connections over those that do.
"""

import contextlib
import errno
import socket
import sys
from collections.abc import Iterator

from carousel.errors import SettingsInvalid
from carousel.settings import split_address

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # such as an address of IPv6 on a machine without it


@contextlib.contextmanager
def reserved(listen: str, setting: str = "listen") -> Iterator[str]:
    """Yields the address, with the port that it got. Only processes of the same user can then listen there, and only
    those that ask for a share. Raises SettingsInvalid when somebody listens there already; `setting` names the
    address."""
    if sys.platform != "linux":
        raise SettingsInvalid("workers: several workers share a port only on Linux; set workers=1")
    host, port = split_address(listen)
    with contextlib.ExitStack() as stack:
        try:
            for bound in _bind_all(host, port):
                stack.enter_context(bound)
                port = bound.getsockname()[1]
        except OSError as error:
            why = "another server is there" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise SettingsInvalid(f"{setting}: cannot bind {listen}: {why}") from error
        yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind_all(host: str, port: int) -> Iterator[socket.socket]:
    """Yields a socket for each address of the host; all have the first one's port."""
    refused: OSError | None = None
    num_bound = 0
    for family, _, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            bound = _bind(family, (place[0], port, *place[2:]))
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            refused = error
        else:
            port = bound.getsockname()[1]
            num_bound += 1
            yield bound
    if not num_bound and refused is not None:
        raise refused


def _bind(family: socket.AddressFamily, place: tuple[object, ...]) -> socket.socket:
    """While it binds, it shares with nobody: a second server is refused. Afterwards it shares, with SO_REUSEPORT alone:
    SO_REUSEADDR, which forgives what closed connections leave, would let another server bind beside it."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        bound.close()
        raise
    return bound

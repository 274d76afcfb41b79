"""The port of several workers: bound once, kept, and shared with nobody else."""

import contextlib
import socket
from collections.abc import Iterator

import grpc
import pytest

from carousel.errors import SettingsInvalid
from carousel.settings import split_address
from carousel.workers.reservation import reserved


@contextlib.contextmanager
def listening(address: str, *, shares: bool) -> Iterator[None]:
    """A server of gRPC's, as a worker makes it. Raises RuntimeError where it cannot listen."""
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", int(shares))])
    server.add_insecure_port(address)
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


HOSTS = ["127.0.0.1", "localhost", "0.0.0.0", *(["[::1]", "[::]"] if has_ipv6() else [])]


@pytest.mark.parametrize("host", HOSTS)
def test_workers_share_a_free_port(host: str) -> None:
    """All listen on the one that the first bind got, one after the other too; callers reach them."""
    with reserved(f"{host}:0") as address:
        assert address.startswith(f"{host}:")
        assert not address.endswith(":0")
        for _ in range(2):
            with listening(address, shares=True), listening(address, shares=True):
                grpc.channel_ready_future(channel := grpc.insecure_channel(address)).result(20)
                channel.close()


@pytest.mark.parametrize("host", [host for host in HOSTS if host != "localhost"])  # of which gRPC makes two addresses
def test_nobody_else_listens_there(host: str) -> None:
    """Neither a server of one process nor other workers; not before the first worker listens either."""
    with reserved(f"{host}:0") as address:
        for _ in range(2):
            with pytest.raises(RuntimeError), listening(address, shares=False):
                pass
            refusal = f"listen: cannot bind .*{address[-5:]}: another server is there"
            with pytest.raises(SettingsInvalid, match=refusal), reserved(address):
                pass
            with listening(address, shares=True), pytest.raises(SettingsInvalid), reserved(address):
                pass


def test_a_port_that_is_in_use_is_refused() -> None:
    """Also by a server that would share it: it does not know us."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(SettingsInvalid, match="another server is there"), reserved(address):
            pass


def test_a_port_with_what_closed_connections_left_is_free() -> None:
    """A restart need not wait until the kernel has forgotten them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with socket.create_connection(split_address(address)) as caller:
            accepted, _ = server.accept()
            accepted.close()  # first, so that this side remembers it
            assert caller.recv(1) == b""
    with reserved(address) as got:
        assert got == address


@pytest.mark.parametrize("listen", ["192.0.2.1:0", "no.such.host.invalid:0"])
def test_an_address_of_another_machine_is_refused(listen: str) -> None:
    """With its name."""
    with pytest.raises(SettingsInvalid, match=f"^listen: cannot bind {listen}: "), reserved(listen):
        pass
    refusal = f"^openai_listen: cannot bind {listen}: "
    with pytest.raises(SettingsInvalid, match=refusal), reserved(listen, "openai_listen"):
        pass

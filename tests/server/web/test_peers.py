"""A request over HTTP is known by its peer, its headers and the certificate of its connection."""

import asyncio
import http.client
import ssl
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from tests.certificates import Authority

from carousel.identity.certificates import CertificateFiles, watch_certificate
from carousel.identity.doorkeeper import Evidence
from carousel.readiness import Readiness, StoreHealth
from carousel.web.app import WebServer, make_app
from carousel.web.peers import collect_evidence, read_subjects

URI = "spiffe://cluster/scraper"


@pytest.mark.parametrize(
    ("client", "peer"),
    [
        (("10.0.0.1", 5), "ipv4:10.0.0.1:5"),
        (("2001:db8::7", 5), "ipv6:%5B2001:db8::7%5D:5"),
        (None, ""),
    ],
)
def test_a_peer_is_written_as_grpc_writes_it(client: tuple[str, int] | None, peer: str) -> None:
    """So that both transports know the same host."""
    request = Request({"type": "http", "client": client, "headers": [(b"x-a", b"1"), (b"x-a", b"2")]})
    evidence = collect_evidence(request)
    assert evidence.peer == peer
    assert list(evidence.metadata) == [("x-a", "1"), ("x-a", "2")]


def test_a_certificate_has_spiffe_ids_and_common_names() -> None:
    """Names of machines are none, and a common name of that form is no SPIFFE id."""
    subject = ((("countryName", "CH"),), (("commonName", "me"),), (("commonName", "spiffe://cluster/ops"),))
    names = (("DNS", "spiffe://cluster/dns"), ("URI", URI), ("URI", "https://elsewhere"))
    assert read_subjects({"subject": subject, "subjectAltName": names}) == [URI, "me"]
    assert read_subjects({}) == []


def ask(address: str, context: ssl.SSLContext) -> None:
    host, port = address.split(":")
    connection = http.client.HTTPSConnection(host, int(port), timeout=20, context=context)
    for _ in range(2):  # on one connection
        connection.request("GET", "/healthz")
        connection.getresponse().read()
    connection.close()


@pytest.mark.parametrize(
    ("shows", "asks", "subjects"), [(True, True, [URI, "me"]), (False, True, []), (True, False, [])]
)
async def test_the_certificate_that_was_checked_is_evidence(
    tmp_path: Path, shows: bool, asks: bool, subjects: list[str]
) -> None:
    """For each request of its connection; one that nobody has asked for is none."""
    authority, seen = Authority(), []
    ca = authority.write_own(tmp_path)
    cert, key = authority.write(tmp_path, "server")
    for path, pem in zip(("me.crt", "me.key"), authority.sign("me", uris=(URI,)), strict=True):
        (tmp_path / path).write_bytes(pem)

    def admit(path: str, evidence: Evidence) -> None:
        seen.append(list(evidence.read_subjects()))

    files = CertificateFiles(cert, key, ca if asks else None)
    server = WebServer(make_app(CollectorRegistry(), Readiness(StoreHealth(lambda up: None), needs_store=False), admit))
    await server.start("127.0.0.1:0", watch_certificate(files, lambda name, is_good: None))
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if shows:
        context.load_cert_chain(tmp_path / "me.crt", tmp_path / "me.key")
    await asyncio.to_thread(ask, server.address, context)
    await server.stop()
    assert seen == [subjects, subjects]

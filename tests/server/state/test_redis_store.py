"""What is particular to a store that servers share: leases, fencing, losing Redis, doubt, clusters, TLS."""

import asyncio
import contextlib
import datetime
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.server.state.conftest import NOW, QUICK, RedisServer, advance, make_row, run_redis, step, take

from carousel.errors import Overloaded, SessionExists, SessionMoved, StoreInvalid, StoreUnavailable
from carousel.state.redis_store import RedisStore, Timing
from carousel.state.store import Durability, Ending, EndReason, Row

SLOW = Timing(lease=30.0, time_out=0.5, patience=1.0, ending=60.0)


@contextlib.asynccontextmanager
async def opened(server: RedisServer, timing: Timing = QUICK, **options: Any) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url, timing=timing, **options)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def two(server: RedisServer, timing: Timing = QUICK) -> AsyncIterator[tuple[RedisStore, RedisStore]]:
    _run(server, "flushall")
    async with opened(server, timing) as one, opened(server, timing) as other:
        yield one, other


def _run(server: RedisServer, *command: str) -> str:
    output = subprocess.run(["redis-cli", "-p", str(server.port), *command], check=True, stdout=subprocess.PIPE)
    return output.stdout.decode().strip()


async def _stop_renewing(store: RedisStore) -> None:
    """As if the server were paused: it says nothing to Redis until its next call."""
    (task,) = [task for task in store._tasks if task.get_name() == "keep-leases"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_servers_see_each_others_sessions(shared_redis: RedisServer) -> None:
    """What one server does, another goes on with; lists, counts and endings are the same everywhere."""
    async with two(shared_redis) as (one, other):
        await one.create(make_row(), {"at/0": b"0"})
        with pytest.raises(SessionExists):
            await other.create(make_row(), {})
        for store in (one, other, one, one, other):
            row = await advance(store)
        assert (await one.read("s"), await other.list_owned("ann", (0.0, ""), 9)) == (row, [row])
        held = await take(one)
        assert len(held.parts) == 6
        await one.release(held)
        assert one.durability is Durability.EACH_TURN
        assert await other.num_live() == 1
        assert [await store.end(row, EndReason.DELETED, NOW) for store in (one, other)] == [True, False]
        assert await other.take("s") == Ending("s", "ann", EndReason.DELETED, NOW)


async def test_another_servers_turn_is_waited_for(shared_redis: RedisServer) -> None:
    """A take waits while another server holds the session, and has its change then."""
    async with two(shared_redis, SLOW) as (one, other):
        await one.create(make_row(), {})
        held = await take(one)
        waiting = asyncio.create_task(take(other))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        await one.commit(held, change := step(held, {"a": b"1"}))
        got = await asyncio.wait_for(waiting, 5)
        assert (got.row, got.parts) == (change.row, {"a": b"1"})
        waiting = asyncio.create_task(take(one))
        await asyncio.wait([waiting], timeout=0.05)
        await other.release(got)
        assert (await asyncio.wait_for(waiting, 5)).row == change.row


async def test_servers_that_compete_lose_no_turn(shared_redis: RedisServer) -> None:
    """Two servers that advance the same sessions at once apply every acknowledged turn exactly once."""
    async with two(shared_redis, SLOW) as servers:
        names = [f"s{number}" for number in range(4)]
        for name in names:
            await servers[0].create(make_row(name), {})

        async def live(store: RedisStore, name: str) -> None:
            for _ in range(15):
                await advance(store, name)

        await asyncio.gather(*(live(store, name) for store in servers for name in names))
        for name in names:
            held = await take(servers[1], name)
            assert (held.row.revision, len(held.parts)) == (30, 30)


async def test_a_lease_lasts_as_long_as_the_turn(shared_redis: RedisServer) -> None:
    """A turn that takes several times the lease keeps its session and commits."""
    async with two(shared_redis) as (one, other):
        await one.create(make_row(), {})
        held = await take(one)
        waiting = asyncio.create_task(take(other))
        await asyncio.wait([waiting], timeout=4 * QUICK.lease)
        assert not waiting.done()
        await one.commit(held, change := step(held, {}))
        assert (await waiting).row == change.row


async def test_a_paused_server_cannot_overwrite(shared_redis: RedisServer) -> None:
    """Once its lease is over another goes on; whatever the paused one commits or releases later has no effect."""
    async with two(shared_redis) as (paused, other):
        await paused.create(make_row(), {})
        late = await take(paused)
        await _stop_renewing(paused)
        got = await asyncio.wait_for(take(other), 10)
        with pytest.raises(SessionMoved):  # though the revision is still the one that it held
            await paused.commit(late, step(late, {"late": b"x"}))
        await paused.release(late)
        await other.commit(got, change := step(got, {"other": b"1"}))
        with pytest.raises(SessionMoved):
            await paused.commit(late, step(late, {"late": b"x"}))
        held = await take(other)
        assert (held.row, held.parts) == (change.row, {"other": b"1"})


async def test_a_turn_whose_lease_ran_out_unnoticed_still_commits(shared_redis: RedisServer) -> None:
    """If nobody took the session meanwhile nothing is lost."""
    async with two(shared_redis) as (one, other):
        await one.create(make_row(), {})
        held = await take(one)
        await _stop_renewing(one)
        _run(shared_redis, "hset", "carousel:{s}:row", "lease_until", "1")
        await one.commit(held, change := step(held, {}))
        assert await other.read("s") == change.row


async def test_a_cancelled_take_leaves_no_lease(shared_redis: RedisServer) -> None:
    """Cancelled at any moment, a take does not keep other servers waiting."""
    async with two(shared_redis, SLOW) as (one, other):
        await one.create(make_row(), {})
        for num_steps in range(12):
            taking = asyncio.create_task(take(one))
            for _ in range(num_steps):
                await asyncio.sleep(0)
            taking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one.release(await taking)
            await other.release(await asyncio.wait_for(take(other), 5))


async def test_closing_gives_leases_back(shared_redis: RedisServer) -> None:
    """A server that stops in the middle of a turn does not keep others waiting for its lease."""
    _run(shared_redis, "flushall")
    async with opened(shared_redis, SLOW) as other:
        async with opened(shared_redis, SLOW) as one:
            await one.create(make_row(), {})
            await take(one)
        await asyncio.wait_for(take(other), 5)


async def test_parts_that_are_known_do_not_travel(shared_redis: RedisServer) -> None:
    """A server that made the last change is not sent the parts again; one that did not is."""
    async with two(shared_redis) as (one, other):
        await one.create(make_row(), {"large": bytes(1_000_000)})
        await advance(one)
        before = _sent(shared_redis)
        await advance(one)
        assert _sent(shared_redis) - before < 100_000
        await advance(other)
        assert _sent(shared_redis) - before > 1_000_000
        held = await take(one)
        assert len(held.parts) == 4


def _sent(server: RedisServer) -> int:
    lines = dict(line.split(":", 1) for line in _run(server, "info", "stats").split() if ":" in line)
    return int(lines["total_net_output_bytes"])


async def test_an_answer_that_was_lost_is_not_applied_twice(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the connection breaks after a change was applied, the call succeeds and it is applied once."""
    async with two(shared_redis) as (one, other):
        _lose_answers(one, monkeypatch)
        await one.create(make_row(), {"a": b"0"})
        for number in range(1, 4):
            held = await take(one)
            await one.commit(held, step(held, {"a": b"%d" % number}))
        seen = await take(other)
        await other.release(seen)
        assert (seen.row.revision, seen.parts) == (3, {"a": b"3"})
        assert await one.end(seen.row, EndReason.DELETED, NOW)


def _lose_answers(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second exchange with Redis takes place and its answers are thrown away."""
    num_calls = 0
    exchange = store._link._exchange

    async def lose(commands: list[Any]) -> list[Any]:
        nonlocal num_calls
        num_calls += 1
        replies = await exchange(commands)
        if any(isinstance(reply, Exception) for reply in replies):  # the script is not known yet
            num_calls -= 1
            return replies
        return [ConnectionResetError("lost")] * len(replies) if num_calls % 2 else replies

    monkeypatch.setattr(store._link, "_exchange", lose)


async def test_a_commit_in_doubt_is_not_acknowledged(redis_server: RedisServer) -> None:
    """Redis hangs while a turn commits: it is refused, and whatever became of it the session is whole afterwards."""
    async with opened(redis_server) as store:
        await store.create(make_row(), {"a": b"0"})
        held = await take(store)
        assert redis_server.process is not None
        redis_server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreUnavailable) as refused:
            await store.commit(held, change := step(held, {"a": b"1"}))
        assert refused.value.details == {"in_doubt": "true"}
        redis_server.process.send_signal(signal.SIGCONT)
        await store.release(held)
        after = await take(store)
        assert (after.row, after.parts) in ((held.row, {"a": b"0"}), (change.row, {"a": b"1"}))
        await store.commit(after, step(after, {"a": b"2"}))


async def test_redis_that_goes_and_comes_back(redis_server: RedisServer) -> None:
    """While it is away calls are unavailable; then what it acknowledged is there, and service goes on by itself."""
    async with opened(redis_server) as store:
        for number in range(20):
            await store.create(make_row(f"s{number}"), {"at/0": b"0"})
        rows = [await advance(store, f"s{number}") for number in range(20)]
        held = await take(store, "s0")
        redis_server.kill()
        for call in (
            store.read("s1"),
            store.take("s1"),
            store.num_live(),
            store.due(NOW),
            store.create(make_row(), {}),
        ):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await call
        with pytest.raises(StoreUnavailable):
            await store.commit(held, step(held, {}))
        await store.release(held)
        redis_server.start()
        await _until_answers(store)
        assert [await store.read(row.id) for row in rows] == rows
        assert (await take(store, "s3")).parts == {"at/0": b"0", "at/1": b"0"}
        assert await store.num_live() >= 20
        assert (await advance(store, "s0")).revision == 2


async def test_a_short_absence_is_ridden_out(redis_server: RedisServer) -> None:
    """A commit that finds Redis restarting waits a moment for it and succeeds."""
    timing = Timing(lease=5.0, time_out=0.5, patience=20.0, ending=60.0)
    async with opened(redis_server, timing) as store:
        await store.create(make_row(), {})
        held = await take(store)
        redis_server.kill()
        commit = asyncio.create_task(store.commit(held, change := step(held, {})))
        await asyncio.wait([commit], timeout=0.1)
        assert not commit.done()
        await asyncio.to_thread(redis_server.start)
        await commit
        assert await store.read("s") == change.row


async def test_redis_that_forgot_everything(redis_server: RedisServer) -> None:
    """A turn that was held when Redis lost its data is refused, and so is one on a session made anew since."""
    async with opened(redis_server) as store:
        await store.create(make_row(), {"a": b"old"})
        await advance(store)
        held = await take(store)
        _run(redis_server, "flushall")
        with pytest.raises(SessionMoved):
            await store.commit(held, step(held, {}))
        assert await store.read("s") is None
        await store.create(make_row(), {"a": b"new"})
        assert (await take(store)).parts == {"a": b"new"}


async def _until_answers(store: RedisStore) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(StoreUnavailable):
            await store.num_live()
            return
    raise AssertionError("Redis is back, the store is not")


async def test_redis_keeps_what_ended_for_a_while(shared_redis: RedisServer) -> None:
    """Every key of a session expires by itself: after its life and the time for which an ending is remembered."""
    async with two(shared_redis) as (store, _):
        await store.create(make_row("a", ttl_seconds=100.0), {"x": b"1"})
        assert 155_000 < _ttl(shared_redis, "carousel:{a}:row") <= 160_000
        assert 155_000 < _ttl(shared_redis, "carousel:{a}:parts") <= 160_000
        row = await advance(store, "a")
        await store.end(row, EndReason.IDLE, NOW)
        assert 55_000 < _ttl(shared_redis, "carousel:{a}:row") <= 60_000
        assert set(_run(shared_redis, "keys", "*").split()) == {"carousel:{a}:row", "carousel:format"}


def _ttl(server: RedisServer, key: str) -> int:
    return int(_run(server, "pttl", key))


async def test_index_entries_without_a_session_are_removed(shared_redis: RedisServer) -> None:
    """What a crash left in the indices is neither listed nor due, and is gone after it was met."""
    async with two(shared_redis) as (store, _):
        for name in "abc":
            await store.create(make_row(name, ttl_seconds=5.0), {})
        _run(shared_redis, "del", "carousel:{a}:row", "carousel:{b}:row")
        assert [row.id for row in await store.list_owned("ann", (0.0, ""), 1)] == ["c"]
        assert await store.num_live() == 1
        _run(shared_redis, "del", "carousel:{c}:row")
        assert await store.due(NOW + 10) == []
        assert _run(shared_redis, "keys", "*") == "carousel:format"


async def test_a_young_entry_is_left_to_its_maker(shared_redis: RedisServer) -> None:
    """An entry whose session is not there yet may be of one that is being made."""
    _run(shared_redis, "flushall")
    async with opened(shared_redis, clock=lambda: NOW + 1) as store:
        await store.create(make_row(), {})
        _run(shared_redis, "del", "carousel:{s}:row")
        assert await store.list_owned("ann", (0.0, ""), 9) == []
        assert await store.num_live() == 1


async def test_redis_out_of_memory(tmp_path: Path) -> None:
    """New sessions are Overloaded, nothing that lives is dropped, and with memory again they are made."""
    with run_redis(tmp_path) as server:
        async with opened(server) as store:
            await store.create(row := make_row("a"), {"x": bytes(1000)})
            _run(server, "config", "set", "maxmemory", "1")
            with pytest.raises(Overloaded) as refused:
                await store.create(make_row("b"), {})
            assert refused.value.limit == "redis_memory"
            assert (await store.read("a"), await store.read("b")) == (row, None)
            _run(server, "config", "set", "maxmemory", "0")
            await store.create(make_row("b"), {})


async def test_a_redis_that_drops_keys_is_refused(tmp_path: Path) -> None:
    """An eviction policy would lose sessions in silence."""
    with run_redis(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        with pytest.raises(StoreInvalid, match="maxmemory-policy allkeys-lru"):
            await RedisStore(server.url).start()
        _run(server, "config", "set", "maxmemory-policy", "noeviction")
        async with opened(server):
            pass


async def test_another_format_is_refused(tmp_path: Path) -> None:
    """A newer server's sessions are not touched."""
    with run_redis(tmp_path) as server:
        _run(server, "set", "carousel:format", "2")
        with pytest.raises(StoreInvalid, match="format version 2, this server reads 1"):
            await RedisStore(server.url).start()
        assert _run(server, "get", "carousel:format") == "2"


async def test_a_password_is_needed_and_not_told(tmp_path: Path) -> None:
    """With the right one, in the URL or beside it, it works; a wrong one is StoreInvalid that does not repeat it."""
    with run_redis(tmp_path, "--requirepass", "secret!") as server:
        for url, password in ((server.url, "secret!"), (server.url.replace("//", "//:secret!@"), None)):
            store = RedisStore(url, password=password, timing=QUICK)
            await store.start()
            await store.create(make_row(str(password)), {})
            assert "secret" not in repr(store)
            await store.close()
        for password in ("wrong!", None):
            store = RedisStore(server.url, password=password, timing=QUICK)
            with pytest.raises(StoreInvalid) as refused:
                await store.start()
            assert "wrong!" not in str(refused.value)


async def test_no_redis_is_unavailable(tmp_path: Path) -> None:
    """A start without a server, and a call without a start, say so; closing is harmless."""
    with run_redis(tmp_path) as server:
        pass
    store = RedisStore(server.url, timing=QUICK)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.start()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.read("s")
    await store.close()


async def test_a_cluster_works(tmp_path: Path) -> None:
    """A server in cluster mode is found out; sessions of all slots, their lists and their ends work."""
    with run_redis(tmp_path, "--cluster-enabled", "yes") as server:
        _run(server, "cluster", "addslotsrange", "0", "16383")
        await asyncio.to_thread(_wait_for_cluster, server)
        async with opened(server) as store:
            assert "RedisCluster" in type(store._link._client).__name__
            for number in range(30):
                await store.create(make_row(str(number), created_at=NOW + number), {"x": b"1"})
                row = await advance(store, str(number))
            assert [row.id for row in await store.list_owned("ann", (0.0, ""), 99)] == [str(n) for n in range(30)]
            assert await store.end(row, EndReason.DELETED, NOW)
            assert len(await store.due(NOW + 1000)) == 29


def _wait_for_cluster(server: RedisServer) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if "cluster_state:ok" in _run(server, "cluster", "info"):
            return
    raise AssertionError("the cluster did not come up")


async def test_tls(tmp_path: Path) -> None:
    """rediss:// checks the server's certificate against the authority that the URL names, and refuses another."""
    certificate = _make_certificate(tmp_path)
    with run_redis(tmp_path) as server:
        _run(server, "config", "set", "tls-cert-file", str(certificate))
        _run(server, "config", "set", "tls-key-file", str(tmp_path / "key.pem"))
        _run(server, "config", "set", "tls-ca-cert-file", str(certificate))
        _run(server, "config", "set", "tls-auth-clients", "no")
        _run(server, "config", "set", "port", "0", "tls-port", str(server.port))
        url = server.url.replace("redis://127.0.0.1", "rediss://localhost")
        store = RedisStore(f"{url}?ssl_ca_certs={certificate}", timing=QUICK)
        await store.start()
        await store.create(row := make_row(), {})
        assert await store.read("s") == row
        await store.close()
        with pytest.raises(StoreUnavailable):
            await RedisStore(url, timing=QUICK).start()


def _make_certificate(directory: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today - datetime.timedelta(1)).not_valid_after(today + datetime.timedelta(1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    private = serialization.PrivateFormat.PKCS8
    (directory / "key.pem").write_bytes(key.private_bytes(encoding, private, serialization.NoEncryption()))
    path = directory / "certificate.pem"
    path.write_bytes(certificate.public_bytes(encoding))
    return path


def test_redis_is_needed_by_this_store_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module can be imported without the client library; making a store then says what to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(StoreInvalid, match=r"pip install carousel-serving\[redis\]"):
        RedisStore("redis://localhost")
    code = "import sys, carousel.state.redis_store; sys.exit('redis' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_row_reads_the_same_everywhere(shared_redis: RedisServer) -> None:
    """Large numbers and fractions of seconds come back bit for bit on another server."""
    async with two(shared_redis) as (one, other):
        row = Row("s", "ann", 2**62 - 1, 0, 2**53 + 1, NOW + 1 / 3, NOW + 2 / 3, NOW + 1e4 / 7)
        await one.create(row, {})
        held = await take(other)
        assert held.row == row
        await other.release(held)

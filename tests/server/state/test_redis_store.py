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
from tests.server.state.conftest import (
    LONG,
    QUICK,
    RedisServer,
    advance,
    make_birth,
    open_session,
    run_redis,
    step,
    take,
)

from carousel.errors import Overloaded, SessionExists, SessionMoved, StoreInvalid, StoreUnavailable
from carousel.shares import OwnerLimits
from carousel.state.redis_store import RedisStore, Timing
from carousel.state.store import Birth, Deed, Durability, Ending, EndReason, Lifetimes, Repeated

SLOW = Timing(lease=30.0, time_out=0.5, patience=1.0, ending=60.0)


@contextlib.asynccontextmanager
async def opened(
    server: RedisServer, timing: Timing = QUICK, lifetimes: Lifetimes = LONG, **options: Any
) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url, lifetimes, timing=timing, **options)
    await store.start(lambda _: None)
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
    (task,) = [task for task in store._work._beside if task.get_name() == "keep-leases"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_servers_see_each_others_sessions(shared_redis: RedisServer) -> None:
    """What one server does, another goes on with; lists, counts and endings are the same everywhere."""
    async with two(shared_redis) as (one, other):
        await open_session(one)
        with pytest.raises(SessionExists):
            await other.create([make_birth()])
        for store in (one, other, one, one, other):
            row = await advance(store)
        assert (await one.read("ann", "s"), await other.list_owned("ann", (0.0, ""), 9)) == (row, [row])
        held = await take(one)
        assert len(held.parts) == 6
        await one.release(held)
        assert one.durability is Durability.EACH_TURN
        assert await other.num_live() == 1
        assert [await store.end(row, EndReason.DELETED) for store in (one, other)] == [True, False]
        ending = await other.take("ann", "s")
        assert isinstance(ending, Ending)
        assert (ending.reason, ending.incarnation) == (EndReason.DELETED, row.incarnation)


async def test_another_servers_turn_is_waited_for(shared_redis: RedisServer) -> None:
    """A take waits while another server holds the session, and has its change then."""
    async with two(shared_redis, SLOW) as (one, other):
        await open_session(one)
        held = await take(one)
        waiting = asyncio.create_task(take(other))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        changed = await one.commit(held, step(held, {"a": b"1"}))
        got = await asyncio.wait_for(waiting, 5)
        assert (got.row, got.parts["a"]) == (changed, b"1")
        waiting = asyncio.create_task(take(one))
        await asyncio.wait([waiting], timeout=0.05)
        await other.release(got)
        assert (await asyncio.wait_for(waiting, 5)).row == changed


async def test_servers_that_compete_lose_no_turn(shared_redis: RedisServer) -> None:
    """Two servers that advance the same sessions at once apply every acknowledged turn exactly once."""
    async with two(shared_redis, SLOW) as servers:
        names = [f"s{number}" for number in range(4)]
        for name in names:
            await open_session(servers[0], name)

        async def live(store: RedisStore, name: str) -> None:
            for _ in range(15):
                await advance(store, name)

        await asyncio.gather(*(live(store, name) for store in servers for name in names))
        for name in names:
            held = await take(servers[1], name)
            assert (held.row.revision, len(held.parts)) == (30, 31)


async def test_a_lease_lasts_as_long_as_the_turn(shared_redis: RedisServer) -> None:
    """A turn that takes several times the lease keeps its session and commits."""
    async with two(shared_redis) as (one, other):
        await open_session(one)
        held = await take(one)
        waiting = asyncio.create_task(take(other))
        await asyncio.wait([waiting], timeout=4 * QUICK.lease)
        assert not waiting.done()
        changed = await one.commit(held, step(held, {}))
        assert (await waiting).row == changed


async def test_a_paused_server_cannot_overwrite(shared_redis: RedisServer) -> None:
    """Once its lease is over another goes on; whatever the paused one commits or releases later has no effect."""
    async with two(shared_redis) as (paused, other):
        await open_session(paused)
        late = await take(paused)
        await _stop_renewing(paused)
        got = await asyncio.wait_for(take(other), 10)
        with pytest.raises(SessionMoved):  # though the revision is still the one that it held
            await paused.commit(late, step(late, {"late": b"x"}))
        await paused.release(late)
        changed = await other.commit(got, step(got, {"other": b"1"}))
        with pytest.raises(SessionMoved):
            await paused.commit(late, step(late, {"late": b"x"}))
        held = await take(other)
        assert (held.row, held.parts) == (changed, {"at/0": b"0", "other": b"1"})


async def test_a_turn_whose_lease_ran_out_unnoticed_still_commits(shared_redis: RedisServer) -> None:
    """If nobody took the session meanwhile nothing is lost."""
    async with two(shared_redis) as (one, other):
        await open_session(one)
        held = await take(one)
        await _stop_renewing(one)
        _run(shared_redis, "hset", "carousel2:{ann:s}:row", "lease_until", "1")
        changed = await one.commit(held, step(held, {}))
        assert await other.read("ann", "s") == changed


async def test_a_cancelled_take_leaves_no_lease(shared_redis: RedisServer) -> None:
    """Cancelled at any moment, a take does not keep other servers waiting."""
    async with two(shared_redis, SLOW) as (one, other):
        await open_session(one)
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
            await open_session(one)
            await take(one)
        await asyncio.wait_for(take(other), 5)


async def test_parts_that_are_known_do_not_travel(shared_redis: RedisServer) -> None:
    """A server that made the last change is not sent the parts again; one that did not is."""
    async with two(shared_redis) as (one, other):
        await one.create([make_birth(parts={"large": bytes(1_000_000)})])
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
        await one.create([make_birth(parts={"a": b"0"})])
        for number in range(1, 4):
            held = await take(one)
            await one.commit(held, step(held, {"a": b"%d" % number}))
        seen = await take(other)
        await other.release(seen)
        assert (seen.row.revision, seen.parts) == (3, {"a": b"3"})
        assert await one.end(seen.row, EndReason.DELETED)


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
        await store.create([make_birth(parts={"a": b"0"})])
        held = await take(store)
        assert redis_server.process is not None
        redis_server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreUnavailable) as refused:
            await store.commit(held, step(held, {"a": b"1"}))
        assert refused.value.details == {"in_doubt": "true"}
        redis_server.process.send_signal(signal.SIGCONT)
        await store.release(held)
        after = await take(store)
        assert (after.row.revision, after.parts) in ((0, {"a": b"0"}), (1, {"a": b"1"}))
        await store.commit(after, step(after, {"a": b"2"}))


async def test_redis_that_goes_and_comes_back(redis_server: RedisServer) -> None:
    """While it is away calls are unavailable; then what it acknowledged is there, and service goes on by itself."""
    async with opened(redis_server) as store:
        for number in range(20):
            await open_session(store, f"s{number}")
        rows = [await advance(store, f"s{number}") for number in range(20)]
        held = await take(store, "s0")
        redis_server.kill()
        for call in (
            store.read("ann", "s1"),
            store.take("ann", "s1"),
            store.num_live(),
            store.sweep(9),
            store.create([make_birth()]),
        ):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await call
        with pytest.raises(StoreUnavailable):
            await store.commit(held, step(held, {}))
        await store.release(held)
        redis_server.start()
        await _until_answers(store)
        assert [await store.read("ann", row.id) for row in rows] == rows
        assert (await take(store, "s3")).parts == {"at/0": b"0", "at/1": b"0"}
        assert await store.num_live() >= 20
        assert (await advance(store, "s0")).revision == 2


async def test_a_short_absence_is_ridden_out(redis_server: RedisServer) -> None:
    """A commit that finds Redis restarting waits a moment for it and succeeds."""
    timing = Timing(lease=5.0, time_out=0.5, patience=20.0, ending=60.0)
    async with opened(redis_server, timing) as store:
        await open_session(store)
        held = await take(store)
        redis_server.kill()
        commit = asyncio.create_task(store.commit(held, step(held, {})))
        await asyncio.wait([commit], timeout=0.1)
        assert not commit.done()
        await asyncio.to_thread(redis_server.start)
        changed = await commit
        assert await store.read("ann", "s") == changed


async def test_redis_that_forgot_everything(redis_server: RedisServer) -> None:
    """A turn that was held when Redis lost its data is refused, and so is one on a session made anew since."""
    async with opened(redis_server) as store:
        await store.create([make_birth(parts={"a": b"old"})])
        await advance(store)
        held = await take(store)
        _run(redis_server, "flushall")
        with pytest.raises(SessionMoved):
            await store.commit(held, step(held, {}))
        assert await store.read("ann", "s") is None
        await store.create([make_birth(parts={"a": b"new"})])
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
    _run(shared_redis, "flushall")
    async with opened(shared_redis, lifetimes=Lifetimes(100.0, 1000.0)) as store:
        row = await open_session(store, "a")
        assert 155_000 < _ttl(shared_redis, "carousel2:{ann:a}:row") <= 160_000
        assert 155_000 < _ttl(shared_redis, "carousel2:{ann:a}:parts") <= 160_000
        await advance(store, "a")
        assert 155_000 < _ttl(shared_redis, "carousel2:{ann:a}:parts") <= 160_000
        await store.end(row, EndReason.DELETED)
        assert 55_000 < _ttl(shared_redis, "carousel2:{ann:a}:row") <= 60_000
        assert set(_run(shared_redis, "keys", "*").split()) == {"carousel2:{ann:a}:row", "carousel2:format"}


def _ttl(server: RedisServer, key: str) -> int:
    return int(_run(server, "pttl", key))


async def test_index_entries_without_a_session_are_removed(shared_redis: RedisServer) -> None:
    """What a crash left in the indices is neither listed nor counted after it was met, unless it is young: then it may
    be of a session that is being made."""
    _run(shared_redis, "flushall")
    async with opened(shared_redis, lifetimes=Lifetimes(0.05, 9.0)) as store:
        for name in "abc":
            await open_session(store, name)
        _run(shared_redis, "del", *(f"carousel2:{{ann:{name}}}:{kind}" for name in "abc" for kind in ("row", "parts")))
        assert await store.list_owned("ann", (0.0, ""), 9) == []
        assert await store.num_live() == 3
        entries = _run(shared_redis, "zrange", "carousel2:owner:{ann}", "0", "-1").split()
        assert len(entries) == 3
        await asyncio.to_thread(_age, shared_redis, "carousel2:owner:{ann}")
        assert await store.list_owned("ann", (0.0, ""), 9) == []
        assert await store.num_live() == 0
        await open_session(store, "d")
        _run(shared_redis, "del", "carousel2:{ann:d}:row", "carousel2:{ann:d}:parts")
        await asyncio.sleep(0.06)  # until it is due by the clock of Redis
        assert await store.sweep(9) == 0
        assert _run(shared_redis, "keys", "*") == "carousel2:format"


def _age(server: RedisServer, key: str) -> None:
    """As if the entries had been made two minutes ago."""
    script = "for _, m in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZINCRBY', KEYS[1], -120, m) end"
    _run(server, "eval", script, "1", key)


async def test_redis_out_of_memory(tmp_path: Path) -> None:
    """New sessions are Overloaded, nothing that lives is dropped, what is due or deleted is freed all the same; with
    memory again sessions are made."""
    with run_redis(tmp_path) as server:
        async with opened(server, lifetimes=Lifetimes(0.2, 9.0)) as store:
            await store.create([make_birth("due", parts={"x": bytes(1000)})])
            (row,) = await store.create([make_birth("deleted", parts={"x": bytes(1000)})])
            _run(server, "config", "set", "maxmemory", "1")
            with pytest.raises(Overloaded) as refused:
                await store.create([make_birth("b")])
            assert refused.value.limit == "redis_memory"
            assert await store.read("ann", "b") is None
            assert await store.end(row, EndReason.DELETED)
            await asyncio.sleep(0.25)  # until the other is due by the clock of Redis
            assert await store.sweep(9) == 1
            endings = [await store.read("ann", name) for name in ("due", "deleted")]
            assert [isinstance(one, Ending) and one.reason for one in endings] == [EndReason.IDLE, EndReason.DELETED]
            assert "parts" not in _run(server, "keys", "*")
            _run(server, "config", "set", "maxmemory", "0")
            await open_session(store, "b")


async def test_a_redis_that_drops_keys_is_refused(tmp_path: Path) -> None:
    """An eviction policy would lose sessions in silence."""
    with run_redis(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        with pytest.raises(StoreInvalid, match="maxmemory-policy allkeys-lru"):
            await RedisStore(server.url, LONG).start(print)
        _run(server, "config", "set", "maxmemory-policy", "noeviction")
        async with opened(server):
            pass


async def test_another_format_is_refused(tmp_path: Path) -> None:
    """A newer server's sessions are not touched."""
    with run_redis(tmp_path) as server:
        _run(server, "set", "carousel2:format", "3")
        with pytest.raises(StoreInvalid, match="format version 3, this server reads 2"):
            await RedisStore(server.url, LONG).start(print)
        assert _run(server, "get", "carousel2:format") == "3"


async def test_a_password_is_needed_and_not_told(tmp_path: Path) -> None:
    """With the right one, in the URL or beside it, it works; a wrong one is StoreInvalid that does not repeat it."""
    with run_redis(tmp_path, "--requirepass", "secret!") as server:
        for url, password in ((server.url, "secret!"), (server.url.replace("//", "//:secret!@"), None)):
            store = RedisStore(url, LONG, password=password, timing=QUICK)
            await store.start(print)
            await open_session(store, str(password))
            assert "secret" not in repr(store)
            await store.close()
        for password in ("wrong!", None):
            store = RedisStore(server.url, LONG, password=password, timing=QUICK)
            with pytest.raises(StoreInvalid) as refused:
                await store.start(print)
            assert "wrong!" not in str(refused.value)


async def test_no_redis_is_unavailable(tmp_path: Path) -> None:
    """A start without a server, and a call without a start, say so; closing is harmless."""
    with run_redis(tmp_path) as server:
        pass
    store = RedisStore(server.url, LONG, timing=QUICK)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.start(print)
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.read("ann", "s")
    await store.close()


async def test_a_cluster_works(tmp_path: Path) -> None:
    """A server in cluster mode is found out; sessions of all slots, their lists and their ends work."""
    with run_redis(tmp_path, "--cluster-enabled", "yes") as server:
        _run(server, "cluster", "addslotsrange", "0", "16383")
        await asyncio.to_thread(_wait_for_cluster, server)
        async with opened(server) as store:
            assert "RedisCluster" in type(store._link._client).__name__
            for number in range(30):
                await store.create([make_birth(str(number), parts={"x": b"1"})])
                row = await advance(store, str(number))
            assert [one.id for one in await store.list_owned("ann", (0.0, ""), 99)] == [str(n) for n in range(30)]
            assert await store.end(row, EndReason.DELETED)
            assert await store.num_live() == 29
            births = [make_birth(name) for name in ("a", "b", "c")]  # in three slots
            deed = Deed("ann", "r", "print", tuple((birth.id, birth.incarnation) for birth in births))
            await store.create(births, deed)
            again = [make_birth(name) for name in ("a", "b", "c")]
            with pytest.raises(Repeated):
                await store.create(again, Deed("ann", "r", "print", tuple((one.id, one.incarnation) for one in again)))
            assert await store.recall("ann", "r") == deed
            with pytest.raises(SessionExists):
                await store.create([make_birth("d"), make_birth("a"), make_birth("e")])
            assert [await store.read("ann", name) for name in "de"] == [None, None]
        async with opened(server, lifetimes=Lifetimes(0.05, 9.0)) as store:
            await open_session(store, "short")
            await asyncio.sleep(0.06)  # until it is due by the clock of Redis
            assert await store.sweep(99) == 1


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
        store = RedisStore(f"{url}?ssl_ca_certs={certificate}", LONG, timing=QUICK)
        await store.start(print)
        row = await open_session(store)
        assert await store.read("ann", "s") == row
        await store.close()
        with pytest.raises(StoreUnavailable):
            await RedisStore(url, LONG, timing=QUICK).start(print)


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
        RedisStore("redis://localhost", LONG)
    code = "import sys, carousel.state.redis_store; sys.exit('redis' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_row_reads_the_same_everywhere(shared_redis: RedisServer) -> None:
    """Large numbers and fractions of seconds come back bit for bit on another server."""
    async with two(shared_redis) as (one, other):
        (row,) = await one.create([Birth("s", "ann", 2**62 - 1, 2**53 + 1, {})])
        assert (row.incarnation, row.position) == (2**62 - 1, 2**53 + 1)
        held = await take(other)
        assert held.row == row
        await other.release(held)


async def test_an_epoch_follows_the_clock_of_redis(shared_redis: RedisServer) -> None:
    """So that none comes twice, although Redis has lost the takes since: an old turn is refused whatever it held."""
    async with two(shared_redis) as (one, other):
        await open_session(one)
        late = await take(one)
        _run(shared_redis, "hset", "carousel2:{ann:s}:row", "epoch", "0", "lease_until", "0")
        held = await take(other)
        assert held.epoch > late.epoch > 1e15
        with pytest.raises(SessionMoved):
            await one.commit(late, step(late, {}))
        await other.release(held)


async def test_a_waiting_server_is_let_in_by_one_with_a_line_of_its_own(shared_redis: RedisServer) -> None:
    """One server has turn after turn on a session; another's single turn comes after a few of them, not after all."""
    async with two(shared_redis, SLOW) as (busy, other):
        await open_session(busy)
        num_before: list[int] = []

        async def go_on() -> None:
            while not num_before:
                held = await take(busy)
                await asyncio.sleep(0.002)
                await busy.commit(held, step(held, {}))
                await busy.release(held)

        going = asyncio.create_task(go_on())
        while (await other.read("ann", "s")).revision < 3:  # type: ignore[union-attr]
            await asyncio.sleep(0.001)
        held = await asyncio.wait_for(take(other), 10)
        first = held.row.revision
        await other.release(held)
        for _ in range(3):  # and again
            held = await asyncio.wait_for(take(other), 10)
            await other.release(held)
        num_before.append(held.row.revision - first)
        await going
        assert num_before[0] < 1_000


async def test_a_limit_of_sessions_per_owner(shared_redis: RedisServer) -> None:
    """Counted for each owner; at it the next is Overloaded by the limit's name, until one has ended."""
    _run(shared_redis, "flushall")
    async with opened(shared_redis, owner_limits=OwnerLimits(max_sessions=2)) as store:
        row = await open_session(store, "a")
        for number in range(2):
            with pytest.raises(Overloaded) as refused:
                await store.create([make_birth("b"), make_birth(f"c{number}")])
            assert refused.value.limit == "max_sessions_per_owner"
        await open_session(store, "b")
        await open_session(store, "b", "bob")
        await store.end(row, EndReason.DELETED)
        await open_session(store, "c")

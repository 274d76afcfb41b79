"""What every store promises, asked of every store."""

import asyncio
import contextlib
import random
import secrets
from dataclasses import replace
from pathlib import Path

import pytest
from tests.server.state.conftest import NOW, advance, make_row, make_store, step, take

from carousel.errors import Overloaded, SessionExists, SessionMoved
from carousel.state.memory import Capacity
from carousel.state.store import Ending, EndReason, Row, SessionStore
from carousel.state.write_behind import WriteBehind

BOUNDED = ["memory", "sqlite", "write-behind"]


async def test_a_session_is_where_it_was_left(store: SessionStore) -> None:
    """Row and parts come back bit for bit, after a creation and after a change."""
    row = replace(make_row(), created_at=NOW + 1 / 3, incarnation=2**62 - 1)
    parts = {"at/0": b"\x00\xff\r\n", "mark/a b": b""}
    assert await store.create(row, parts) == []
    assert await store.read("s") == row
    held = await take(store)
    assert (held.row, held.parts) == (row, parts)
    change = step(held, {"at/1": b"new", "mark/a b": b"other"}, ("at/0", "nothing"), seconds=0.1)
    await store.commit(held, change)
    await store.release(held)
    assert await store.read("s") == change.row
    again = await take(store)
    await store.release(again)
    assert (again.row, again.parts) == (change.row, {"at/1": b"new", "mark/a b": b"other"})


async def test_nothing_is_known_of_what_never_was(store: SessionStore) -> None:
    """Unknown ids are None, to readers and takers, and cannot be ended."""
    assert await store.read("s") is None
    assert await store.take("s") is None
    assert not await store.end(make_row(), EndReason.DELETED, NOW)
    assert await store.read("s") is None


async def test_an_id_is_taken_once(store: SessionStore) -> None:
    """A second session under a live id is refused, also by the same owner, and the first one is untouched."""
    row = make_row()
    await store.create(row, {"a": b"1"})
    for other in (make_row(), make_row(owner="bob"), row):
        with pytest.raises(SessionExists, match="session s exists"):
            await store.create(other, {"a": b"2"})
    held = await take(store)
    await store.release(held)
    assert (held.row, held.parts) == (row, {"a": b"1"})
    assert await store.num_live() == 1
    assert await store.list_owned("bob", (0.0, ""), 9) == []
    assert await store.list_owned("ann", (0.0, ""), 9) == [row]


async def test_a_change_to_what_is_no_longer_there_is_refused(store: SessionStore) -> None:
    """Of two turns that held the same state one is applied; the other is SessionMoved and leaves nothing behind."""
    await store.create(make_row(), {"at/0": b"0"})
    late = await take(store)
    await store.release(late)
    current = await advance(store)
    with pytest.raises(SessionMoved, match="session s was changed"):
        await store.commit(late, step(late, {"late": b"x"}, ("at/0",)))
    held = await take(store)
    await store.release(held)
    assert held.row == current
    assert held.parts == {"at/0": b"0", "at/1": b"0"}


async def test_a_namesake_is_another_session(store: SessionStore) -> None:
    """A turn that outlived its session neither changes nor ends a new one of the same id."""
    old = make_row()
    await store.create(old, {"a": b"old"})
    late = await take(store)
    await store.release(late)
    assert await store.end(old, EndReason.DELETED, NOW)
    new = make_row()
    await store.create(new, {"b": b"new"})
    with pytest.raises(SessionMoved):
        await store.commit(late, step(late, {"a": b"x"}))
    assert not await store.end(old, EndReason.DELETED, NOW)
    held = await take(store)
    await store.release(held)
    assert (held.row, held.parts) == (new, {"b": b"new"})


async def test_an_ended_session_is_remembered(store: SessionStore) -> None:
    """How and when it ended is known, once, until the id is used again; its turns are SessionMoved."""
    row = make_row()
    await store.create(row, {"a": b"1"})
    held = await take(store)
    assert await store.end(row, EndReason.AGE, NOW + 0.125)
    assert not await store.end(row, EndReason.IDLE, NOW + 1)
    ending = Ending("s", "ann", EndReason.AGE, NOW + 0.125)
    assert await store.read("s") == ending
    assert await store.take("s") == ending
    with pytest.raises(SessionMoved):
        await store.commit(held, step(held, {"a": b"2"}))
    await store.release(held)
    assert await store.num_live() == 0
    assert await store.list_owned("ann", (0.0, ""), 9) == []
    await store.create(again := make_row(), {})
    assert await store.read("s") == again


async def test_a_session_ends_as_it_stands(store: SessionStore) -> None:
    """A row that was read before the last turns still names the session to be ended."""
    row = make_row()
    await store.create(row, {})
    await advance(store)
    assert await store.end(row, EndReason.DELETED, NOW)
    assert await store.num_live() == 0


async def test_what_was_handed_out_never_changes(store: SessionStore) -> None:
    """Later changes, and changes to the mapping that was stored, do not reach what somebody holds."""
    given = {"a": b"1"}
    await store.create(make_row(), given)
    given["a"] = b"changed"
    first = await take(store)
    await store.release(first)
    put = {"b": b"2"}
    second = await take(store)
    await store.commit(second, step(second, put, ("a",)))
    await store.release(second)
    put["b"] = b"changed"
    third = await take(store)
    await store.release(third)
    assert (first.parts, second.parts, third.parts) == ({"a": b"1"}, {"a": b"1"}, {"b": b"2"})


async def test_a_put_outlives_a_drop_of_the_same_part(store: SessionStore) -> None:
    """What a change both drops and puts is there afterwards."""
    await store.create(make_row(), {"a": b"1"})
    held = await take(store)
    await store.commit(held, step(held, {"a": b"2"}, ("a",)))
    await store.release(held)
    again = await take(store)
    await store.release(again)
    assert again.parts == {"a": b"2"}


async def test_parts_are_any_bytes(store: SessionStore) -> None:
    """Empty, every byte value and a megabyte come back as they were."""
    parts = {"empty": b"", "all": bytes(range(256)), "large": random.Random(7).randbytes(2**20)}
    await store.create(make_row(), parts)
    held = await take(store)
    await store.release(held)
    assert held.parts == parts


async def test_pages_follow_creation_and_skip_nothing(store: SessionStore) -> None:
    """Paging meets every session once, in order of (created_at, id), though some are used or ended between pages."""
    names = ["b", "a", "a.b", "a~", "c", "z", "y"]
    rows = [make_row(name, created_at=NOW + index // 4) for index, name in enumerate(names)]
    for row in (*rows, make_row("other", "bob")):
        await store.create(row, {})
    await advance(store, "c")
    seen: list[str] = []
    after = (0.0, "")
    while page := await store.list_owned("ann", after, 2):
        seen.extend(row.id for row in page)
        after = (page[-1].created_at, page[-1].id)
        if len(seen) == 4:
            await store.end(rows[5], EndReason.DELETED, NOW)  # z
    assert seen == ["a", "a.b", "a~", "b", "c", "y"]
    assert (await store.list_owned("ann", (NOW, "~"), 1))[0].position == 1


async def test_a_session_is_due_when_its_time_has_come(store: SessionStore) -> None:
    """`due` has exactly the expired ones: not those that were used since, nor those that are gone."""
    for name, ttl_seconds in (("old", 5.0), ("used", 5.0), ("gone", 5.0), ("young", 50.0)):
        await store.create(make_row(name, ttl_seconds=ttl_seconds), {})
    used = await advance(store, "used", seconds=3.0)
    await store.end(await _row(store, "gone"), EndReason.DELETED, NOW)
    assert await store.due(NOW + 4.9) == []
    old = await _row(store, "old")
    assert await store.due(NOW + 5) == [old]
    await store.end(old, EndReason.IDLE, NOW + 5)
    assert await store.due(NOW + 7.9) == []
    assert await store.due(NOW + 8) == [used]


async def test_many_expire_at_once(store: SessionStore) -> None:
    """However many are due, asking again until there are none ends them all."""
    for number in range(600):
        await store.create(make_row(str(number)), {})
    num_ended = 0
    while rows := await store.due(NOW + 600):
        for row in rows:
            num_ended += await store.end(row, EndReason.IDLE, NOW + 600)
    assert (num_ended, await store.num_live()) == (600, 0)


async def test_turns_on_many_sessions_do_not_meet(store: SessionStore) -> None:
    """Sessions that are changed all at once each have their own changes, all of them."""
    names = [f"s{number}" for number in range(40)]
    await asyncio.gather(*(store.create(make_row(name), {"name": name.encode()}) for name in names))

    async def live(name: str) -> None:
        for _ in range(8):
            await advance(store, name)

    await asyncio.gather(*(live(name) for name in names))
    for name in names:
        held = await take(store, name)
        await store.release(held)
        wanted = {"name": name.encode()} | {f"at/{count + 1}": b"%d" % count for count in range(8)}
        assert (held.row.revision, held.row.position, held.parts) == (8, 8, wanted)


async def test_of_changes_at_once_one_is_applied(store: SessionStore) -> None:
    """Of many commits from the same held state exactly one succeeds, and it is the one that is read."""
    await store.create(make_row(), {})
    held = await take(store)
    changes = [step(held, {"winner": secrets.token_bytes(8)}) for _ in range(16)]
    outcomes = await asyncio.gather(*(store.commit(held, change) for change in changes), return_exceptions=True)
    await store.release(held)
    winners = [change for change, outcome in zip(changes, outcomes, strict=True) if outcome is None]
    assert len(winners) == 1
    assert sum(isinstance(outcome, SessionMoved) for outcome in outcomes) == 15
    assert (await take(store)).parts == winners[0].put


async def test_a_cancelled_wait_leaves_no_half(store: SessionStore) -> None:
    """A commit that nobody waits for any more is applied wholly or not at all, and the session goes on."""
    await store.create(make_row(), {"a": b"0", "b": b"0"})
    for number in range(20):
        held = await take(store)
        value = b"%d" % (held.row.revision + 1)
        commit = asyncio.create_task(store.commit(held, step(held, {"a": value, "b": value})))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        commit.cancel()
        await asyncio.gather(commit, return_exceptions=True)
        await store.release(held)
        after = await take(store)
        await store.release(after)
        assert after.parts["a"] == after.parts["b"] == b"%d" % after.row.revision
    while True:
        with contextlib.suppress(SessionMoved):  # by the last of those above
            row = await advance(store)
            break
    assert await store.read("s") == row


async def test_ids_and_owners_are_any_text(store: SessionStore) -> None:
    """Owners that are empty or full of signs stay apart."""
    owners = ["", "{}", "a{b}c", "é\n", "x" * 500, "%7B%7D", "a:b"]
    for number, owner in enumerate(owners):
        await store.create(make_row(f"s{number}", owner), {})
    for number, owner in enumerate(owners):
        assert [row.id for row in await store.list_owned(owner, (0.0, ""), 9)] == [f"s{number}"]


async def test_a_release_after_all_is_harmless(store: SessionStore) -> None:
    """Releasing twice, or after a commit or an end, changes nothing and does not raise."""
    await store.create(make_row(), {})
    held = await take(store)
    await store.commit(held, step(held, {}))
    await store.release(held)
    await store.release(held)
    assert (await advance(store)).revision == 2


async def test_what_is_durable_is_said(store: SessionStore) -> None:
    """Nothing is claimed to be durable beyond the position that the session has."""
    await store.create(make_row(), {})
    row = await advance(store)
    assert 0 <= store.durable_position(row) <= row.position
    if isinstance(store, WriteBehind):
        await store.flush()
        assert store.durable_position(row) == row.position


@pytest.mark.parametrize("kind", BOUNDED)
async def test_a_full_store_refuses(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """At the limit of sessions or bytes a creation is Overloaded with a hint, until one has ended."""
    store = make_store(kind, request, tmp_path, Capacity(max_sessions=2, max_bytes=20_000, evicts=False))
    await store.start()
    await store.create(make_row("a"), {})
    await store.create(row := make_row("b"), {"large": bytes(15_000)})
    with pytest.raises(Overloaded) as refused:
        await store.create(make_row("c"), {})
    assert (refused.value.limit, refused.value.retry_seconds > 0) == ("max_sessions", True)
    await store.end(row, EndReason.DELETED, NOW)
    with pytest.raises(Overloaded) as refused:
        await store.create(make_row("c"), {"larger": bytes(19_900)})
    assert refused.value.limit == "max_session_bytes"
    assert await store.create(make_row("c"), {"large": bytes(15_000)}) == []
    assert await store.num_live() == 2
    await store.close()


@pytest.mark.parametrize("kind", BOUNDED)
async def test_a_full_store_evicts(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Where it may, it ends the least recently used, says so, and remembers it as evicted."""
    store = make_store(kind, request, tmp_path, Capacity(max_sessions=3, max_bytes=20_000, evicts=True))
    await store.start()
    for number, name in enumerate(("a", "b", "c")):
        await store.create(make_row(name, created_at=NOW + number), {})
    await advance(store, "a", seconds=10.0)
    if isinstance(store, WriteBehind):
        await store.flush()
    evicted = await store.create(make_row("d", created_at=NOW + 20), {})
    assert evicted == [Ending("b", "ann", EndReason.EVICTED, NOW + 20)]
    assert await store.read("b") == evicted[0]
    evicted = await store.create(make_row("e", created_at=NOW + 30), {"large": bytes(19_500)})
    assert [ending.id for ending in evicted] == ["c", "a", "d"]
    assert [row.id for row in await store.list_owned("ann", (0.0, ""), 9)] == ["e"]
    await store.close()


@pytest.mark.parametrize("kind", BOUNDED)
async def test_memory_of_endings_is_bounded(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the ended only the newest are remembered; older ones are unknown."""
    for module in ("memory", "sqlite_store"):
        monkeypatch.setattr(f"carousel.state.{module}.MAX_ENDINGS", 3)
    store = make_store(kind, request, tmp_path, Capacity(max_sessions=9, max_bytes=2**30, evicts=False))
    await store.start()
    for number in range(6):
        await store.create(row := make_row(str(number)), {})
        await store.end(row, EndReason.IDLE, NOW)
    assert [isinstance(await store.read(str(number)), Ending) for number in range(6)] == [False] * 3 + [True] * 3
    await store.close()


async def _row(store: SessionStore, session_id: str) -> Row:
    row = await store.read(session_id)
    assert isinstance(row, Row)
    return row

"""What every store promises, asked of every store: sessions that live, change and are given back."""

import asyncio
import contextlib
import random
import secrets
from dataclasses import replace

import pytest
from tests.server.state.conftest import NOW, advance, make_birth, open_session, step, take

from carousel.errors import SessionExists, SessionMoved
from carousel.state.store import Birth, Ending, EndReason, SessionStore
from carousel.state.write_behind import WriteBehind


async def test_a_session_is_where_it_was_left(store: SessionStore) -> None:
    """Row and parts come back bit for bit, after a creation and after a change."""
    parts = {"at/0": b"\x00\xff\r\n", "mark/a b": b""}
    birth = Birth("s", "ann", 2**62 - 1, 3, parts)
    (row,) = await store.create([birth])
    assert (row.id, row.owner, row.incarnation, row.revision, row.position) == ("s", "ann", 2**62 - 1, 0, 3)
    assert row.created_at == row.updated_at < row.expires_at
    assert await store.read("ann", "s") == row
    held = await take(store)
    assert (held.row, held.parts) == (row, parts)
    changed = await store.commit(held, step(held, {"at/1": b"new", "mark/a b": b"other"}, ("at/0", "nothing")))
    await store.release(held)
    assert changed == replace(row, revision=1, position=4, updated_at=changed.updated_at, expires_at=changed.expires_at)
    assert await store.read("ann", "s") == changed
    again = await take(store)
    await store.release(again)
    assert (again.row, again.parts) == (changed, {"at/1": b"new", "mark/a b": b"other"})


async def test_nothing_is_known_of_what_never_was(store: SessionStore, told: list[Ending]) -> None:
    """Unknown ids are None, to readers and takers, and cannot be ended."""
    row = await open_session(store)
    await store.end(row, EndReason.UNDONE)
    assert await store.read("ann", "s") is None
    assert await store.acquire("ann", "s") is None
    assert not await store.end(row, EndReason.DELETED)
    assert await store.recall("ann", "r") is None
    assert [one for one in told if one.reason is not EndReason.UNDONE] == []


async def test_an_id_is_taken_once_for_each_owner(store: SessionStore) -> None:
    """A second session of its owner under a live id is refused and the first is untouched; another owner's is free."""
    row = await open_session(store)
    with pytest.raises(SessionExists, match="session s exists"):
        await store.create([make_birth(parts={"a": b"2"})])
    other = await open_session(store, owner="bob")
    await advance(store, owner="bob")
    held = await take(store)
    await store.release(held)
    assert (held.row, held.parts) == (row, {"at/0": b"0"})
    assert await store.num_live() == 2
    await store.end(other, EndReason.DELETED)
    assert await store.read("ann", "s") == row
    assert isinstance(await store.read("bob", "s"), Ending)
    assert await store.list_owned("bob", (0.0, ""), 9) == []


async def test_a_change_to_what_is_no_longer_there_is_refused(store: SessionStore) -> None:
    """Of two turns that held the same state one is applied; the other is SessionMoved and leaves nothing behind."""
    await open_session(store)
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
    old = await open_session(store)
    late = await take(store)
    await store.release(late)
    assert await store.end(old, EndReason.DELETED)
    (new,) = await store.create([make_birth(parts={"b": b"new"})])
    with pytest.raises(SessionMoved):
        await store.commit(late, step(late, {"a": b"x"}))
    assert not await store.end(old, EndReason.DELETED)
    held = await take(store)
    await store.release(held)
    assert (held.row, held.parts) == (new, {"b": b"new"})


async def test_an_ended_session_is_remembered(store: SessionStore, told: list[Ending]) -> None:
    """How and when it ended is known and reported once, until the id is used again; its turns are SessionMoved."""
    row = await open_session(store)
    held = await take(store)
    assert await store.end(row, EndReason.DELETED)
    assert not await store.end(row, EndReason.DELETED)
    (ending,) = told
    assert (ending.id, ending.owner, ending.reason) == ("s", "ann", EndReason.DELETED)
    assert ending.incarnation == row.incarnation
    assert abs(ending.at - row.created_at) < 60
    assert await store.read("ann", "s") == ending
    assert await store.acquire("ann", "s") == ending
    with pytest.raises(SessionMoved):
        await store.commit(held, step(held, {"a": b"2"}))
    await store.release(held)
    assert await store.num_live() == 0
    assert await store.list_owned("ann", (0.0, ""), 9) == []
    again = await open_session(store)
    assert await store.read("ann", "s") == again


async def test_a_session_ends_as_it_stands(store: SessionStore) -> None:
    """A row that was read before the last turns still names the session to be ended, also one in use."""
    row = await open_session(store)
    await advance(store)
    held = await take(store)
    assert await store.end(row, EndReason.DELETED)
    assert await store.num_live() == 0
    await store.release(held)


async def test_what_was_handed_out_never_changes(store: SessionStore) -> None:
    """Later changes, and changes to the stored mapping, do not reach values that were returned."""
    given = {"a": b"1"}
    await store.create([make_birth(parts=given)])
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
    await open_session(store)
    held = await take(store)
    await store.commit(held, step(held, {"at/0": b"2"}, ("at/0",)))
    await store.release(held)
    again = await take(store)
    await store.release(again)
    assert again.parts == {"at/0": b"2"}


async def test_parts_are_any_bytes(store: SessionStore) -> None:
    """Empty, every byte value and a megabyte come back as they were."""
    parts = {"empty": b"", "all": bytes(range(256)), "large": random.Random(7).randbytes(2**20)}
    await store.create([make_birth(parts=parts)])
    held = await take(store)
    await store.release(held)
    assert held.parts == parts


async def test_pages_follow_creation_and_skip_nothing(store: SessionStore) -> None:
    """Paging meets every session once, in order of (created_at, id), though some are used or ended between pages."""
    rows = {}
    for names in (("b", "a", "a.b", "a~"), ("c", "z", "y")):
        for row in await store.create([make_birth(name) for name in names]):
            rows[row.id] = row
        await asyncio.sleep(0.002)  # so that the second ones are younger by any clock
    await open_session(store, "other", "bob")
    await advance(store, "c")
    expected = [row.id for row in sorted(rows.values(), key=lambda row: (row.created_at, row.id)) if row.id != "z"]
    seen: list[str] = []
    after = (0.0, "")
    while page := await store.list_owned("ann", after, 2):
        seen.extend(row.id for row in page)
        after = (page[-1].created_at, page[-1].id)
        if len(seen) == 4:
            await store.end(rows["z"], EndReason.DELETED)
    assert seen == expected
    assert set(seen[:4]) == {"a", "a.b", "a~", "b"}


async def test_turns_on_many_sessions_do_not_meet(store: SessionStore) -> None:
    """Sessions that are changed all at once each have their own changes, all of them."""
    names = [f"s{number}" for number in range(40)]
    await asyncio.gather(*(store.create([make_birth(name, parts={"name": name.encode()})]) for name in names))

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
    await open_session(store)
    held = await take(store)
    changes = [step(held, {"winner": secrets.token_bytes(8)}) for _ in range(16)]
    outcomes = await asyncio.gather(*(store.commit(held, change) for change in changes), return_exceptions=True)
    await store.release(held)
    winners = [change for change, outcome in zip(changes, outcomes, strict=True) if not isinstance(outcome, Exception)]
    assert len(winners) == 1
    assert sum(isinstance(outcome, SessionMoved) for outcome in outcomes) == 15
    found = await take(store)
    await store.release(found)
    assert found.parts["winner"] == winners[0].put["winner"]


async def test_a_cancelled_wait_leaves_no_half(store: SessionStore) -> None:
    """A commit whose caller is gone is applied as a whole or not at all, and the session continues."""
    await store.create([make_birth(parts={"a": b"0", "b": b"0"})])
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
    assert await store.read("ann", "s") == row


async def test_ids_and_owners_are_any_text(store: SessionStore) -> None:
    """Owners that are empty or full of signs stay apart, also with equal ids."""
    owners = ["", "{}", "a{b}c", "é\n", "x" * 500, "%7B%7D", "a:b", "a", "a\0b", "a}:{b"]
    for number, owner in enumerate(owners):
        await store.create([make_birth("s", owner, {"number": b"%d" % number}), make_birth("b:s", owner)])
    for number, owner in enumerate(owners):
        assert {row.id for row in await store.list_owned(owner, (0.0, ""), 9)} == {"s", "b:s"}
        held = await take(store, "s", owner)
        await store.release(held)
        assert held.parts == {"number": b"%d" % number}


async def test_a_release_after_all_is_harmless(store: SessionStore) -> None:
    """Releasing after a commit changes nothing and does not raise, also when the session has ended meanwhile."""
    row = await open_session(store)
    held = await take(store)
    await store.commit(held, step(held, {}))
    await store.release(held)
    assert (await advance(store)).revision == 2
    held = await take(store)
    await store.end(row, EndReason.DELETED)
    await store.release(held)


async def test_what_is_durable_is_said(store: SessionStore) -> None:
    """Nothing is claimed to be durable beyond the position that the session has."""
    await open_session(store)
    row = await advance(store)
    assert 0 <= store.durable_position(row) <= row.position
    if isinstance(store, WriteBehind):
        await store.flush()
        assert store.durable_position(row) == row.position


async def test_several_are_made_together_or_not_at_all(store: SessionStore, told: list[Ending]) -> None:
    """Where one id of many is taken, or given twice, none of the others is there afterwards, not even as an ending."""
    await open_session(store, "taken")
    for names in (("a", "b", "taken"), ("a", "b", "a")):
        with pytest.raises(SessionExists):
            await store.create([make_birth(name) for name in names])
        assert [await store.read("ann", name) for name in ("a", "b")] == [None, None]
    assert await store.num_live() == 1
    assert [row.id for row in await store.create([make_birth(name) for name in "ab"])] == ["a", "b"]
    assert {row.id for row in await store.list_owned("ann", (0.0, ""), 9)} == {"taken", "a", "b"}
    assert [one for one in told if one.reason is not EndReason.UNDONE] == []


def test_the_tests_clock_is_not_the_machines() -> None:
    """So that a store which asks the machine is found out."""
    assert NOW < 1_750_000_000


async def test_what_is_undone_leaves_nothing(store: SessionStore, told: list[Ending]) -> None:
    """Nothing is reported, and even an older ending of the id is forgotten: the new session had replaced it."""
    await store.end(await open_session(store), EndReason.DELETED)
    assert len(told) == 1
    assert await store.end(await open_session(store), EndReason.UNDONE)
    assert await store.read("ann", "s") is None
    assert await store.acquire("ann", "s") is None
    assert (len(told), await store.num_live()) == (1, 0)


async def test_a_turn_that_commits_nothing_leaves_the_row_as_it_was(store: SessionStore) -> None:
    """Also the moment when it expires: a turn that was given up is no use of the session."""
    row = await open_session(store)
    for _ in range(3):
        held = await take(store)
        await store.release(held)
        assert await store.read("ann", "s") == row

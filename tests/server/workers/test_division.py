"""What bounds a process is divided among the workers; what bounds a request, a connection or the store is not."""

import pytest

from carousel.errors import SettingsInvalid
from carousel.settings import Settings, read_settings
from carousel.workers.division import DIVIDED, divide

SHARED = {"store": "redis://here", "workers": "4"}
NOT_DIVIDED = {  # each is of a request, a step, a stream, a connection or a session, or the store keeps it
    "max_turns_per_session", "max_sequences_per_stream", "max_waiting_per_stream", "max_health_watches",
    "max_chunk_tokens", "max_prompt_tokens_per_step", "max_input_tokens", "max_input_bytes", "max_generated_tokens",
    "max_answer_items", "max_stop_ids", "max_message_bytes", "max_answer_bytes", "max_sessions", "max_session_bytes",
    "max_sessions_per_owner", "max_session_bytes_per_owner", "max_watches_per_owner",
}  # fmt: skip


def settings_of(**given: str) -> Settings:
    return read_settings({}, SHARED | given)


def test_every_limit_is_divided_or_said_not_to_be() -> None:
    """A new limit has to be put in one of the two lists."""
    limits = {name for name in Settings.model_fields if name.startswith(("max_", "reserved_"))}
    assert limits == set(DIVIDED) | NOT_DIVIDED


def test_all_workers_together_keep_within_the_settings() -> None:
    """Numbers are rounded up, so that nothing becomes none."""
    found = divide(settings_of(max_lanes="64", max_short_lanes="0", max_streams="1023", max_lanes_per_owner="2"))
    assert (found["max_lanes"], found["max_short_lanes"]) == ("16", "0")
    assert (found["max_streams"], found["max_lanes_per_owner"]) == ("256", "1")
    assert "max_streams_per_owner" not in found
    assert not found.keys() & NOT_DIVIDED


def test_what_is_divided_is_settings_again() -> None:
    """Also at the least that a setting takes; and a worker has no workers."""
    least = settings_of(max_carried_bytes=str(2**16), max_lanes="1", workers="256")
    mine = read_settings({}, SHARED | divide(least))
    assert (mine.max_carried_bytes, mine.max_lanes, mine.workers) == (2**16, 1, 1)


@pytest.mark.parametrize(("threads", "cores", "expected"), [("0", 8, 2), ("0", 3, 1), ("3", 8, None), ("1", 8, None)])
def test_workers_share_the_cores(threads: str, cores: int, expected: int | None) -> None:
    """Where nobody says how many threads a step has, all steps together have as many as there are cores."""
    found = divide(settings_of(num_threads=threads), cores).get("num_threads")
    assert found == (None if expected is None else str(expected))


@pytest.mark.parametrize(("store", "kind"), [("memory", "memory"), ("sqlite:here.db", "sqlite")])
def test_sessions_that_one_process_keeps_are_refused(store: str, kind: str) -> None:
    """With the reason and the remedy; one worker may have them."""
    wrong = f"^workers: 4 processes cannot share sessions in {kind}; set store=redis://HOST, or workers=1$"
    with pytest.raises(SettingsInvalid, match=wrong):
        settings_of(store=store)
    assert settings_of(store=store, workers="1").store == store


def test_what_one_process_remembers_is_refused() -> None:
    """Used sealed states: each worker would take one once."""
    with pytest.raises(SettingsInvalid, match="seal_replay=refuse .* set seal_replay=allow, or workers=1"):
        settings_of(seal_replay="refuse")
    assert settings_of(seal_replay="refuse", workers="1").seal_replay == "refuse"


@pytest.mark.parametrize("number", ["0", "-1", "257", "two"])
def test_an_impossible_number_is_named(number: str) -> None:
    """As any other setting."""
    with pytest.raises(SettingsInvalid, match="^workers: must be"):
        settings_of(workers=number)

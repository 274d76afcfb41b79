"""A bad setting gets a sentence that names it and says what it must be."""

import re
from pathlib import Path

import pytest

from carousel.errors import SettingsInvalid
from carousel.settings import Settings, read_settings


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("max_lane", "1", "unknown setting max_lane; did you mean max_lanes?"),
        ("MAX-LANES", "1", "unknown setting MAX-LANES; did you mean max_lanes?"),
        ("zzz", "1", "unknown setting zzz (`carousel settings` lists them)"),
        ("max_lanes", "0", "max_lanes: must be at least 1, not '0'"),
        ("max_lanes", "70000", "max_lanes: must be at most 65536, not '70000'"),
        ("max_lanes", "many", "max_lanes: must be a whole number, not 'many'"),
        ("max_lanes", "1.5", "max_lanes: must be a whole number, not '1.5'"),
        ("max_lanes", "", "max_lanes: must be a whole number, not ''"),
        (
            "max_lanes",
            "1" * 5000,
            f"max_lanes: must be a whole number with fewer digits, not '{'1' * 40}...'",
        ),
        ("session_idle_seconds", "0", "session_idle_seconds: must be above 0, not '0'"),
        ("drain_seconds", "1e999", "drain_seconds: must be at most 1000000000, not '1e999'"),
        ("drain_seconds", "soon", "drain_seconds: must be a number, not 'soon'"),
        ("unready_without_store", "perhaps", "unready_without_store: must be true or false, not 'perhaps'"),
        ("when_full", "panic", "when_full: must be evict or refuse, not 'panic'"),
        ("providers", "cpu,tpu", "providers: must be cpu or cuda, not 'tpu'"),
        ("listen", "localhost", "listen: must be host:port, not 'localhost'"),
        ("durability", "interval", "durability interval is for the sqlite store"),
        (
            "seal_keys",
            "abc",
            "seal_keys: must be base64 of 32 bytes, several with commas between; `carousel new-key` prints one",
        ),
    ],
)
def test_the_sentence_says_what_would_be_right(name: str, value: str, sentence: str) -> None:
    """The sentence has no phrase of the validating library and is never cut."""
    with pytest.raises(SettingsInvalid) as refused:
        read_settings({}, {name: value})
    assert str(refused.value) == sentence


@pytest.mark.parametrize(("name", "value"), [("seal_keys", "hunter2"), ("store", "ftp://me:hunter2@host")])
def test_a_value_that_may_be_secret_is_not_shown(name: str, value: str) -> None:
    """Such values are keys, and addresses that may hold a password."""
    with pytest.raises(SettingsInvalid, match=name) as refused:
        read_settings({}, {name: value})
    assert "hunter2" not in str(refused.value)


def test_several_problems_are_sentences_between_semicolons() -> None:
    """All come at once, in the order of the settings, with unknown ones last."""
    with pytest.raises(SettingsInvalid) as refused:
        read_settings({}, {"max_lanes": "0", "num_threads": "-1", "nonsense": "1"})
    assert str(refused.value) == (
        "num_threads: must be at least 0, not '-1'; max_lanes: must be at least 1, not '0'; "
        "unknown setting nonsense (`carousel settings` lists them)"
    )


def test_what_the_deployment_files_are_told_is_no_unknown_setting() -> None:
    """Every CAROUSEL_ variable of deploy/ is a setting or is left alone, so one shell can hold them all."""
    found: set[str] = set()
    for file in (Path(__file__).parents[2] / "deploy").rglob("*"):
        found |= set(_variables(file.read_text())) if file.is_file() else set()
    others = {name: "x" for name in found if name.removeprefix("CAROUSEL_").lower() not in Settings.model_fields}
    assert {"CAROUSEL_BUNDLE", "CAROUSEL_BIND", "CAROUSEL_A", "CAROUSEL_B_HTTP"} <= others.keys()
    assert read_settings(others, {}) == Settings()


def test_a_slip_in_a_variable_is_still_an_error() -> None:
    """The names that are left alone do not let others through."""
    for name in ("CAROUSEL_BUNDL", "CAROUSEL_C", "CAROUSEL_A_GRPCS"):
        with pytest.raises(SettingsInvalid, match="unknown setting"):
            read_settings({name: "x"}, {})


def _variables(text: str) -> list[str]:
    return [name for name in re.findall(r"CAROUSEL_[A-Z_]*[A-Z]", text) if not name.endswith("_")]

"""Settings come from the environment and the command line, and a bad one is refused by name."""

import base64

import pytest
from pydantic import ValidationError

from carousel.errors import SettingsInvalid
from carousel.settings import Settings, read_settings, split_address
from carousel.shares import OwnerLimits


def test_nothing_given_is_the_defaults() -> None:
    """An empty environment gives the documented defaults, which bind to loopback alone."""
    settings = read_settings({}, {})
    assert settings == Settings()
    assert settings.listen.startswith("127.0.0.1:")
    assert settings.http_listen.startswith("127.0.0.1:")


def test_the_command_line_wins_over_the_environment() -> None:
    """Both are read; where both name a setting the override holds."""
    environ = {"CAROUSEL_MAX_LANES": "7", "CAROUSEL_MAX_SESSIONS": "9", "PATH": "/bin"}
    settings = read_settings(environ, {"max_lanes": "8"})
    assert (settings.max_lanes, settings.max_sessions) == (8, 9)


def test_the_variables_of_others_are_left_alone() -> None:
    """The client's address in the environment is not a setting of the server."""
    assert read_settings({"CAROUSEL_ADDRESS": "host:1"}, {}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_lane", "1"),
        ("max_lanes", "0"),
        ("max_lanes", "-1"),
        ("max_lanes", "65537"),
        ("max_lanes", "2000000000"),
        ("num_threads", "1025"),
        ("num_threads", "-1"),
        ("max_short_lanes", "4097"),
        ("max_lanes", "many"),
        ("max_lanes", "1.5"),
        ("max_input_tokens", "3000000000"),
        ("max_message_bytes", "3000000000"),
        ("penalty_window", "4097"),
        ("penalty_window", "-1"),
        ("session_idle_seconds", "0"),
        ("session_idle_seconds", "nan"),
        ("session_lifetime_seconds", "inf"),
        ("session_lifetime_seconds", "1e300"),
        ("store", "postgres://x"),
        ("store", ""),
        ("durability", "never"),
        ("when_full", "panic"),
        ("flush_seconds", "0"),
        ("retained_turns", "0"),
        ("retained_answers", "0"),
        ("max_answer_bytes", "-1"),
        ("max_session_bytes", "1"),
        ("seal_keys", "not base64"),
        ("seal_keys", "c2hvcnQ="),
        ("seal_seconds", "0"),
        ("seal_replay", "sometimes"),
        ("drain_seconds", "-1"),
        ("drain_seconds", "nan"),
        ("drain_seconds", "inf"),
        ("providers", "tpu"),
        ("providers", ""),
        ("listen", "localhost"),
        ("listen", ":80"),
        ("listen", "host:65536"),
        ("http_listen", "host:-1"),
        ("log_level", "loud"),
        ("max_short_lanes", "-1"),
        ("reserved_streams", "-1"),
        ("keepalive_seconds", "0"),
        ("keepalive_timeout_seconds", "0"),
        ("max_connections", "0"),
        ("handshake_seconds", "0"),
        ("connection_idle_seconds", "0"),
        ("max_health_watches", "0"),
        ("max_input_bytes", "0"),
        ("max_answer_items", "0"),
        ("max_stop_ids", "0"),
        ("retained_request_ids", "1"),
        ("max_sessions_per_owner", "0"),
        ("max_session_bytes_per_owner", "65535"),
        ("max_streams_per_owner", "0"),
        ("max_queued_turns_per_owner", "0"),
        ("max_lanes_per_owner", "0"),
        ("max_watches_per_owner", "0"),
        ("unready_without_store", "perhaps"),
        ("slow_handler_seconds", "-1"),
        ("slow_handler_seconds", "nan"),
        ("owner_metadata", "x user"),
        ("owner_metadata", "x-user-bin"),
        ("owner_metadata", "GRPC-user"),
        ("owner_metadata", ":path"),
    ],
)
@pytest.mark.parametrize("source", ["environment", "command line"])
def test_a_bad_setting_is_named(source: str, name: str, value: str) -> None:
    """A setting that is unknown, out of range or of the wrong kind is SettingsInvalid with its name."""
    environ = {f"CAROUSEL_{name.upper()}": value} if source == "environment" else {}
    with pytest.raises(SettingsInvalid, match=name):
        read_settings(environ, {} if environ else {name: value})


def test_what_is_made_at_the_start_is_bounded_in_a_sentence() -> None:
    """The sentence names the largest allowed number of lanes and threads, and that number is allowed."""
    for name, most in (("max_lanes", 65_536), ("max_short_lanes", 4_096), ("num_threads", 1_024)):
        assert getattr(read_settings({}, {name: str(most)}), name) == most
        with pytest.raises(SettingsInvalid, match=f"^{name}: must be at most {most}, not '2000000000'$"):
            read_settings({}, {name: "2000000000"})


def test_every_bad_setting_is_named_at_once() -> None:
    """The message lists all that is wrong."""
    with pytest.raises(SettingsInvalid, match=r"(?s)max_lanes.*nonsense"):
        read_settings({"CAROUSEL_MAX_LANES": "0", "CAROUSEL_NONSENSE": "1"}, {})


def test_settings_are_frozen() -> None:
    """A setting cannot be changed after it was read."""
    with pytest.raises(ValidationError):
        Settings().max_lanes = 5  # type: ignore[misc]


def test_providers_are_an_ordered_list() -> None:
    """Commas separate them, spaces do not matter, and the order stays."""
    assert read_settings({}, {"providers": "cuda, cpu"}).providers == ("cuda", "cpu")


KEYS = [bytes(32), bytes(range(32))]


def test_sealing_keys_are_a_list_of_secrets() -> None:
    """They are in base64 with commas between; the order stays, and no text of the settings shows them."""
    encoded = [base64.b64encode(key).decode() for key in KEYS]
    settings = read_settings({"CAROUSEL_SEAL_KEYS": ",".join(encoded)}, {})
    assert [key.get_secret_value() for key in settings.seal_keys] == KEYS
    assert not any(one in repr(settings) for one in encoded)
    assert read_settings({"CAROUSEL_SEAL_KEYS": ""}, {}).seal_keys == ()


@pytest.mark.parametrize("content", ["swordfish", "c3dvcmRmaXNo", "c3dvcmRmaXNo=,c3dvcmRmaXNo"])
def test_a_bad_key_is_not_shown(content: str) -> None:
    """The error names the setting and does not show the key."""
    with pytest.raises(SettingsInvalid, match="seal_keys") as refused:
        read_settings({"CAROUSEL_SEAL_KEYS": content}, {})
    assert content not in str(refused.value)


def test_write_behind_is_for_stores_that_outlive_the_process() -> None:
    """`interval` with memory, which keeps nothing, is refused by name; with sqlite it is accepted."""
    with pytest.raises(SettingsInvalid, match="durability"):
        read_settings({}, {"durability": "interval"})
    assert read_settings({}, {"durability": "interval", "store": "sqlite:x.db"}).durability == "interval"


def test_a_repeat_is_never_forgotten_while_it_may_still_run() -> None:
    """As many ids are remembered as turns may wait, and one for the turn that runs; fewer are refused by name."""
    with pytest.raises(SettingsInvalid, match="retained_request_ids"):
        read_settings({}, {"retained_request_ids": "8"})
    assert read_settings({}, {"retained_request_ids": "9"}).retained_request_ids == 9


@pytest.mark.parametrize(("given", "key"), [("X-User", "x-user"), ("x_user.id", "x_user.id"), ("", "")])
def test_the_owners_key_is_lowered(given: str, key: str) -> None:
    """Keys on the wire are lower case, so another key would match nothing."""
    assert read_settings({}, {"owner_metadata": given}).owner_metadata == key


def test_an_owners_limits_are_one_object() -> None:
    """Each limit comes from its own setting; without any, only watches are bounded."""
    names = ("max_sessions", "max_session_bytes", "max_streams", "max_queued_turns", "max_lanes", "max_watches")
    given = {f"{name}_per_owner": str(70_000 + number) for number, name in enumerate(names)}
    assert read_settings({}, given).owner_limits == OwnerLimits(70_000, 70_001, 70_002, 70_003, 70_004, 70_005)
    assert Settings().owner_limits == OwnerLimits(max_watches=16)


def test_a_vanished_peer_is_noticed_within_a_minute() -> None:
    """The defaults add up to less than a minute: the time until the server asks, and the time without an answer."""
    assert Settings().keepalive_seconds + Settings().keepalive_timeout_seconds <= 60


def test_every_setting_says_what_it_means() -> None:
    """Each has a description and a default."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:65535", ("::1", 65_535)), ("host:80", ("host", 80))],
)
def test_an_address_splits_into_host_and_port(address: str, parts: tuple[str, int]) -> None:
    """IPv6 hosts come without their brackets."""
    assert split_address(address) == parts


TLS = {"tls_cert": "server.crt", "tls_key": "server.key"}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"tls_cert": "server.crt"}, "tls_cert and tls_key go together"),
        ({"tls_key": "server.key"}, "tls_cert and tls_key go together"),
        ({"tls_client_ca": "ca.crt"}, "tls_client_ca needs tls_cert and tls_key"),
        ({"listen": "0.0.0.0:1"}, "listen 0.0.0.0:1 would be reached unencrypted.*plaintext=everywhere"),
        ({"listen": "[::]:1"}, "listen .* unencrypted"),
        ({"listen": "example.org:1"}, "listen .* unencrypted"),
        ({"listen": "0.0.0.0:1", "plaintext": "http"}, "listen .* unencrypted"),
        ({"http_listen": "10.0.0.1:1"}, "http_listen 10.0.0.1:1 .* plaintext=http"),
    ],
)
def test_nothing_is_reached_unencrypted_by_accident(given: dict[str, str], why: str) -> None:
    """Beyond this machine, plain text needs a word; half a pair of files is none."""
    with pytest.raises(SettingsInvalid, match=why):
        read_settings({}, given)


def test_health_asks_only_where_callers_are_known() -> None:
    """Without principals nobody could be let in."""
    with pytest.raises(SettingsInvalid, match="health_needs_identity needs principals"):
        read_settings({}, {"health_needs_identity": "true"})
    assert read_settings({}, {"health_needs_identity": "true", "principals": "p.toml"}).health_needs_identity


@pytest.mark.parametrize("name", ["CAROUSEL_TOKEN", "CAROUSEL_TOKEN_FILE", "CAROUSEL_PLAINTEXT_TOKEN"])
def test_a_callers_token_is_no_setting(name: str) -> None:
    """Whoever has one in the environment may start a server there."""
    assert read_settings({name: "x"}, {}) == Settings()


@pytest.mark.parametrize(
    ("given", "encrypts_http"),
    [
        ({"listen": "127.0.0.1:1", "http_listen": "[::1]:1"}, False),
        ({"listen": "localhost:1", "http_listen": "127.9.9.9:1"}, False),
        ({"listen": "0.0.0.0:1", "http_listen": "0.0.0.0:2", "plaintext": "everywhere"}, False),
        ({"http_listen": "0.0.0.0:2", "plaintext": "http"}, False),
        (TLS | {"listen": "0.0.0.0:1", "http_listen": "0.0.0.0:2"}, True),
        (TLS | {"listen": "0.0.0.0:1", "http_listen": "0.0.0.0:2", "plaintext": "http"}, False),
        (TLS | {"listen": "0.0.0.0:1", "http_listen": "0.0.0.0:2", "plaintext": "everywhere"}, False),
        (TLS | {"tls_client_ca": "ca.crt"}, True),
    ],
)
def test_where_http_is_encrypted(given: dict[str, str], encrypts_http: bool) -> None:
    """With files, unless a setting leaves it plain for probes."""
    assert read_settings({}, given).encrypts_http is encrypts_http

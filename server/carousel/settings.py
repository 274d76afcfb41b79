"""The settings of the server: each one's name, default, meaning and bounds, written once.

The server reads them once, at its start, from `CAROUSEL_<NAME>` in the environment and from the command line, which
wins.
"""

import base64
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretBytes,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from carousel.errors import SettingsInvalid
from carousel.setting_problems import explain_problem
from carousel.shares import OwnerLimits

_PREFIX = "CAROUSEL_"
_OF_OTHERS = frozenset(  # for the client, the tests and the files in deploy/
    {"CAROUSEL_ADDRESS", "CAROUSEL_BUNDLE", "CAROUSEL_BIND", "CAROUSEL_WEB_BIND", "CAROUSEL_PAIR", "CAROUSEL_NAME"}
    | {"CAROUSEL_TEST_DATA", "CAROUSEL_TEST_PICTURES"}
    | {"CAROUSEL_TLS", "CAROUSEL_CA", "CAROUSEL_CLIENT_CERT", "CAROUSEL_CLIENT_KEY"}
    | {"CAROUSEL_TOKEN", "CAROUSEL_TOKEN_FILE", "CAROUSEL_PLAINTEXT_TOKEN"}
    | {f"CAROUSEL_{replica}{part}" for replica in "AB" for part in ("", "_GRPC", "_HTTP", "_WEB")}
)
_BAD_KEY = "must be base64 of 32 bytes, several with commas between; `carousel new-key` prints one"

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]  # the wire's range
Seconds = Annotated[float, Field(gt=0, le=1e9)]  # bounded so that a timestamp can hold the end
Provider = Literal["cpu", "cuda"]

GROUPS = {  # each group starts at this setting and ends before the next group
    "listen": "Addresses",
    "tls_cert": "Encryption",
    "providers": "Model",
    "max_lanes": "Turns",
    "max_streams": "Calls and connections",
    "max_chunk_tokens": "Steps",
    "max_input_tokens": "Size of a request",
    "max_sessions": "Sessions, and where they live",
    "retained_turns": "What a session keeps",
    "seal_keys": "Sealed states",
    "session_idle_seconds": "Lifetimes",
    "principals": "Identity",
    "owner_metadata": "Owners",
    "unready_without_store": "Operation",
}


class Settings(BaseModel):
    """The server's settings. They are frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: str = Field("127.0.0.1:50051", description="gRPC address; port 0 takes a free one")
    http_listen: str = Field("127.0.0.1:9090", description="address of /metrics, /healthz and /readyz")
    openai_listen: str = Field("", description="address of the HTTP interface that OpenAI's clients know; none: off")
    openai_hosts: tuple[str, ...] = Field((), description="names of this server that its callers use, with commas")
    page: bool = Field(True, description="whether a page for people is served at openai_listen")
    workers: int = Field(1, ge=1, le=256, description="processes that share callers' ports; above 1, sessions in redis")
    tls_cert: Path | None = Field(None, description="PEM file of the server's certificate and those that signed it")
    tls_key: Path | None = Field(None, description="PEM file of its key; all of these files are read again on change")
    tls_client_ca: Path | None = Field(None, description="PEM file of who signs callers' certificates, then demanded")
    plaintext: Literal["loopback", "http", "everywhere"] = Field(
        "loopback", description="where nothing need be encrypted: on this machine, at http_listen too, everywhere"
    )
    providers: tuple[Provider, ...] = Field(("cpu",), description="execution providers in order: cuda,cpu")
    num_threads: int = Field(1, ge=0, le=1024, description="threads of one model step; 0 lets onnxruntime choose")

    max_lanes: int = Field(64, ge=1, le=2**16, description="turns that run at once")
    max_short_lanes: int = Field(
        8, ge=0, le=4096, description="lanes beyond max_lanes for turns that generate nothing and feed at most a chunk"
    )
    max_queued_turns: Count = Field(1024, description="turns that wait for a lane; beyond it calls are refused")
    max_turns_per_session: Count = Field(8, description="turns that wait for one session; beyond it calls are refused")
    max_streams: Count = Field(1024, description="calls open at once; beyond it calls are refused")
    reserved_streams: int = Field(
        64, ge=0, le=2**20, description="calls beyond max_streams, for owners that have less than their share of them"
    )
    max_sequences_per_stream: Count = Field(
        4096, description="sequences that are open at once on one PredictMany stream"
    )
    max_waiting_per_stream: Count = Field(
        8192, description="requests of one PredictMany stream that are unanswered or unread; beyond it, it is not read"
    )
    keepalive_seconds: Seconds = Field(20.0, description="a silent connection is asked so often whether it still lives")
    keepalive_timeout_seconds: Seconds = Field(20.0, description="a connection that does not answer so long is closed")
    max_connections: Count = Field(4096, description="connections open at once; beyond it they are closed at once")
    handshake_seconds: Seconds = Field(20.0, description="a connection that does not begin HTTP/2 so long is closed")
    connection_idle_seconds: Seconds = Field(600.0, description="a connection without a call for so long is closed")
    max_health_watches: Count = Field(100, description="watches of gRPC health that one connection may have open")
    max_chunk_tokens: Count = Field(64, description="most tokens of one prompt in a step")
    max_prompt_tokens_per_step: Count = Field(1024, description="most prompt tokens in a step, all lanes together")
    token_delay_seconds: float = Field(
        0.05, ge=0, le=1, description="the longest that a generated token may wait for the next ones to share a message"
    )

    max_input_tokens: Count = Field(65_536, description="most tokens that one request may feed")
    max_input_bytes: Count = Field(524_288, description="most bytes of text that one request may feed or tokenize")
    max_generated_tokens: Count = Field(16_384, description="most tokens that one request may generate")
    max_answer_items: Count = Field(
        65_536, description="most of n x max_tokens x (1 + num_log_probabilities) of one request"
    )
    max_stop_ids: Count = Field(1024, description="most stop ids of one request")
    max_message_bytes: Count = Field(1_048_576, description="largest message that is read")
    penalty_window: int = Field(64, ge=0, le=4096, description="tokens that sampling penalties look back at")

    max_sessions: Count = Field(100_000, description="sessions that live at once")
    max_session_bytes: int | None = Field(
        None, ge=2**16, le=2**50, description="bytes that sessions may take; none: 2 GiB of memory, 1 TiB of sqlite"
    )
    max_carried_bytes: int = Field(
        2**28, ge=2**16, le=2**50, description="bytes that sequences may take which streams carry without a session"
    )
    when_full: Literal["evict", "refuse"] = Field(
        "evict", description="at the limit, end the least recently used session or refuse the new one"
    )
    store: str = Field("memory", description="where sessions live: memory, sqlite:PATH, redis://HOST, rediss://HOST")
    memory_file: str = Field("", description="memory store: where sessions sleep from a drain to the next start")
    store_password: SecretStr | None = Field(None, description="password of the redis store")
    lease_seconds: Seconds = Field(10.0, description="redis: how long others wait for a server that does not answer")
    durability: Literal["each_turn", "interval"] = Field(
        "each_turn", description="sqlite: write before answering, or every flush_seconds"
    )
    flush_seconds: Seconds = Field(0.5, description="with durability interval: the most that a crash can take")
    retained_turns: int = Field(8, ge=1, le=1024, description="turn boundaries that a session can go back to")
    retained_answers: int = Field(4, ge=1, le=1024, description="answers that a session keeps for repeated requests")
    retained_request_ids: int = Field(
        256, ge=2, le=65_536, description="request ids that a session remembers as applied; above max_turns_per_session"
    )
    max_answer_bytes: int = Field(65_536, ge=0, le=2**24, description="largest answer that is kept for a repeat")
    seal_keys: tuple[SecretBytes, ...] = Field((), description="base64 of 32 bytes, for exported states; first seals")
    seal_seconds: Seconds = Field(86_400.0, description="how long states given back to their callers are good for")
    seal_replay: Literal["allow", "refuse"] = Field("allow", description="whether a sealed state may be used again")
    session_idle_seconds: Seconds = Field(3600.0, description="a session unused for so long expires")
    session_lifetime_seconds: Seconds = Field(86_400.0, description="a session expires at this age in any case")
    principals: Path | None = Field(
        None, description="TOML file of who may call, read again on change; none: everybody may"
    )
    health_needs_identity: bool = Field(False, description="with principals: whether gRPC health needs a known caller")
    reflection_needs_identity: bool = Field(True, description="with principals: whether gRPC reflection needs one")
    inspect: bool = Field(False, description="whether callers may read the model's state token by token")
    owner_metadata: str = Field("", description="metadata key in which a trusted proxy names the caller")
    max_sessions_per_owner: Count | None = Field(None, description="sessions of one owner; none: all that there are")
    max_session_bytes_per_owner: int | None = Field(None, ge=2**16, description="bytes of one owner's sessions")
    max_streams_per_owner: Count | None = Field(None, description="calls of one owner that are open at once")
    max_queued_turns_per_owner: Count | None = Field(None, description="turns of one owner that wait for a lane")
    max_lanes_per_owner: Count | None = Field(None, description="turns of one owner that run at once")
    max_watches_per_owner: Count = Field(
        16, description="WatchSessions calls of one owner: each event goes out so often"
    )
    unready_without_store: bool = Field(
        False, description="whether a server whose session store does not answer says that it is not ready"
    )
    slow_handler_seconds: float = Field(
        0.0, ge=0, le=60, description="debugging: log what holds the event loop for so long; 0 logs nothing"
    )

    audit_log: str = Field("", description="file of the audit log, a JSON line for each call; -: standard output")
    otlp_endpoint: str = Field("", description="URL of an OpenTelemetry collector for traces (OTLP over gRPC)")
    trace_share: float = Field(
        1.0, ge=0, le=1, description="share of calls that are traced, of those that belong to no caller's trace"
    )

    drain_seconds: float = Field(30.0, ge=0, le=1e9, description="how long running turns may finish after SIGTERM")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line logged")

    @field_validator("openai_hosts", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("providers", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("seal_keys", mode="before")
    @classmethod
    def _decode_keys(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            keys = [base64.b64decode(part, validate=True) for part in value.split(",") if part]
        except ValueError as error:
            raise ValueError(_BAD_KEY) from error
        if any(len(key) != 32 for key in keys):
            raise ValueError(_BAD_KEY)
        return tuple(SecretBytes(key) for key in keys)

    @field_validator("store")
    @classmethod
    def _check_store(cls, value: str) -> str:
        if value != "memory" and not value.startswith(("sqlite:", "redis://", "rediss://", "unix://")):
            raise ValueError("must be memory, sqlite:PATH, redis://HOST or rediss://HOST")
        return value

    @model_validator(mode="after")
    def _check_durability(self) -> "Settings":
        if self.durability == "interval" and not self.store.startswith("sqlite:"):
            raise ValueError("durability interval is for the sqlite store")
        return self

    @model_validator(mode="after")
    def _check_workers(self) -> "Settings":
        """What one process keeps for itself, the others do not know."""
        if self.workers == 1:
            return self
        if self.store == "memory" or self.store.startswith("sqlite:"):
            kind = "memory" if self.store == "memory" else "sqlite"
            raise ValueError(
                f"workers: {self.workers} processes cannot share sessions in {kind}; "
                "set store=redis://HOST, or workers=1"
            )
        if self.seal_replay == "refuse":
            raise ValueError(
                "workers: with seal_replay=refuse each process remembers by itself which sealed states were used, so "
                f"{self.workers} would take one {self.workers} times; set seal_replay=allow, or workers=1"
            )
        return self

    @model_validator(mode="after")
    def _check_retained_ids(self) -> "Settings":
        if self.retained_request_ids < self.max_turns_per_session + 1:
            raise ValueError("retained_request_ids must be above max_turns_per_session, or a repeat could be applied")
        return self

    @model_validator(mode="after")
    def _check_encryption(self) -> "Settings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        if self.tls_cert is None and self.plaintext != "everywhere":
            _refuse_plain("listen", self.listen, "everywhere")
            if self.openai_listen:
                _refuse_plain("openai_listen", self.openai_listen, "everywhere")
        if not self.encrypts_http and self.plaintext == "loopback":
            _refuse_plain("http_listen", self.http_listen, "http")
        return self

    @model_validator(mode="after")
    def _check_identity(self) -> "Settings":
        if self.health_needs_identity and self.principals is None:
            raise ValueError("health_needs_identity needs principals")
        return self

    @property
    def encrypts_http(self) -> bool:
        return self.tls_cert is not None and self.plaintext == "loopback"

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        scheme, separator, address = value.partition("://")
        if value and (scheme not in ("http", "https") or not separator or not address):
            raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
        return value

    @field_validator("owner_metadata")
    @classmethod
    def _check_owner_metadata(cls, value: str) -> str:
        """Returns the key in lower case, as on the wire."""
        if value and not re.fullmatch(r"[0-9a-z_.-]+", value.lower()):
            raise ValueError("must be a metadata key: letters, digits, dot, dash and underscore")
        if value.lower().startswith("grpc-") or value.lower().endswith("-bin"):
            raise ValueError("must not begin with grpc- or end with -bin")
        return value.lower()

    def urls_of(self, openai_address: str) -> tuple[str, str]:
        """Returns where OpenAI's clients and people find a server that has this address; empty where there is none."""
        url = f"http{'s' if self.tls_cert is not None else ''}://{openai_address}" if openai_address else ""
        return f"{url}/v1" if url else "", f"{url}/" if url and self.page else ""

    @property
    def owner_limits(self) -> OwnerLimits:
        """The limits of one owner."""
        return OwnerLimits(
            max_sessions=self.max_sessions_per_owner,
            max_bytes=self.max_session_bytes_per_owner,
            max_calls=self.max_streams_per_owner,
            max_queued_turns=self.max_queued_turns_per_owner,
            max_lanes=self.max_lanes_per_owner,
            max_watches=self.max_watches_per_owner,
        )

    @field_validator("openai_listen")
    @classmethod
    def _check_optional_address(cls, value: str) -> str:
        if value:
            split_address(value)
        return value

    @field_validator("listen", "http_listen")
    @classmethod
    def _check_address(cls, value: str) -> str:
        split_address(value)
        return value


def read_settings(environ: Mapping[str, str], overrides: Mapping[str, str]) -> Settings:
    """Returns the environment's settings, overridden by name. Raises SettingsInvalid, which names each bad one."""
    values: dict[str, str] = {
        key.removeprefix(_PREFIX).lower(): value
        for key, value in environ.items()
        if key.startswith(_PREFIX) and key not in _OF_OTHERS
    }
    try:
        return Settings.model_validate(values | dict(overrides))
    except ValidationError as error:
        problems = (explain_problem(problem, Settings.model_fields) for problem in error.errors())
        raise SettingsInvalid("; ".join(problems)) from error


def split_address(address: str) -> tuple[str, int]:
    """Splits `host:port`, with an IPv6 host in brackets. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"must be host:port, not {address!r}")
    return host.strip("[]"), int(port)


def _refuse_plain(name: str, address: str, permission: str) -> None:
    """Raises ValueError for an address that others reach."""
    host = split_address(address)[0]
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if not is_loopback:
        raise ValueError(
            f"{name} {address} would be reached unencrypted; set tls_cert and tls_key, or plaintext={permission}"
        )

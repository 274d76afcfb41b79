"""Who may call, and what: read from a TOML file, as `carousel token new` prints its parts.

[[principal]]
name = "search"
tokens = ["..."]                 # sha256 of each, in hex; two while one replaces the other
certificates = ["spiffe://cluster/search"]      # or a common name
scopes = ["generate", "score", "sessions"]
"""

import hashlib
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from carousel.identity.scopes import Scope
from carousel.quotas import Quota
from carousel.setting_problems import explain_problem
from carousel.shares import OwnerLimits

MIN_TOKEN_BYTES = 32

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/@-]{1,128}$")]
Count = Annotated[int, Field(strict=True, ge=1, le=2**50)]
Rate = Annotated[float, Field(ge=1e-3, le=1e9)]
Subject = Annotated[str, StringConstraints(min_length=1, max_length=2048)]


class QuotaTable(BaseModel):
    """What a principal may use, in the settings' names. Rates are for each server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_requests_per_second: Rate | None = None
    max_tokens_per_second: Rate | None = None
    max_sessions: Count | None = None
    max_session_bytes: Count | None = None
    max_streams: Count | None = None
    max_queued_turns: Count | None = None
    max_lanes: Count | None = None
    max_watches: Count | None = None

    def of(self, principal: str, owner: str) -> Quota:
        limits = OwnerLimits(
            self.max_sessions,
            self.max_session_bytes,
            self.max_streams,
            self.max_queued_turns,
            self.max_lanes,
            self.max_watches,
        )
        return Quota(principal, owner, limits, self.max_requests_per_second, self.max_tokens_per_second)


class Principal(BaseModel):
    """One that calls. `owner` is whose sessions it sees; without one, those of its own name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    scopes: frozenset[Scope]
    tokens: tuple[Digest, ...] = ()
    certificates: tuple[Subject, ...] = ()
    owner: Annotated[str, StringConstraints(max_length=1024)] = ""
    forwards: bool = False  # whether it says for whom it calls, in `owner_metadata`
    models: tuple[str, ...] = ("*",)
    quota: QuotaTable | None = None

    @model_validator(mode="after")
    def _check_quota(self) -> Self:
        if self.forwards and self.quota is not None:
            raise ValueError("quota: not for a principal that forwards; the settings limit each owner whom it names")
        return self

    @property
    def owner_name(self) -> str:
        return self.owner or self.name

    def may(self, scopes: Iterable[Scope]) -> bool:
        """Whether it has one of them."""
        return Scope.ADMIN in self.scopes or not self.scopes.isdisjoint(scopes)

    def may_use(self, model: str) -> bool:
        return "*" in self.models or model in self.models


_NO_QUOTA = QuotaTable()


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    principal: tuple[Principal, ...] = Field(min_length=1)


class Principals:
    """All of one file. What identifies one identifies no other."""

    def __init__(self, principals: Iterable[Principal]) -> None:
        """Raises ValueError for a name, a token or a certificate that two have."""
        self._all = tuple(principals)
        _refuse_repeats("name", (one.name for one in self._all))
        _refuse_repeats("tokens", (token for one in self._all for token in one.tokens))
        _refuse_repeats("quota of the owner", (one.owner_name for one in self._all if one.quota is not None))
        _refuse_repeats("certificates", (subject for one in self._all for subject in one.certificates))
        self._by_token: Mapping[str, Principal] = {token: one for one in self._all for token in one.tokens}
        self._by_subject = {subject: one for one in self._all for subject in one.certificates}

    def __len__(self) -> int:
        return len(self._all)

    @property
    def quotas(self) -> list[Quota]:
        """One for each owner that has a principal of its own, the stated one if there is one."""
        found: dict[str, Quota] = {}
        for one in self._all:
            if not one.forwards and (one.quota is not None or one.owner_name not in found):
                found[one.owner_name] = (one.quota or _NO_QUOTA).of(one.name, one.owner_name)
        return list(found.values())

    @property
    def forwarding(self) -> tuple[str, ...]:
        """The names of those that say for whom they call."""
        return tuple(one.name for one in self._all if one.forwards)

    def of_token(self, token: str) -> Principal | None:
        """The time that this takes says nothing about any token: what is looked up is the token's hash, and nobody can
        choose a token whose hash begins as another's does. A short token is nobody's: it could be guessed."""
        return self._by_token.get(digest(token)) if len(token) >= MIN_TOKEN_BYTES else None

    def of_certificate(self, subjects: Iterable[str]) -> Principal | None:
        """By the first of these names that somebody has."""
        return next((self._by_subject[one] for one in subjects if one in self._by_subject), None)


def digest(token: str) -> str:
    """As it stands in the file."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def read_principals(path: Path) -> Principals:
    """Raises ValueError or OSError, with the reason; tokens are in none of them."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    try:
        return Principals(_File.model_validate(content).principal)
    except ValidationError as error:
        raise ValueError(f"{path}: {'; '.join(_explain(problem, content) for problem in error.errors())}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _explain(problem: Mapping[str, object], content: Mapping[str, object]) -> str:
    """The problem with the principal that has it, by its number: its name may be what is wrong."""
    place = problem["loc"]
    assert isinstance(place, tuple)
    if len(place) > 1 and place[0] == "principal":
        inner = {**problem, "loc": place[2:] or place[:1]}
        return f"principal {place[1] + 1}: {explain_problem(inner, Principal.model_fields, 'carousel token new')}"
    return explain_problem(problem, _File.model_fields, "carousel token new")


def _refuse_repeats(what: str, values: Iterable[str]) -> None:
    """Of tokens, their hashes are shortened: a log is no place for them."""
    for value, count in Counter(values).items():
        if count > 1:
            raise ValueError(f"{what}: {value[:12] + '...' if what == 'tokens' else value} stands there twice")

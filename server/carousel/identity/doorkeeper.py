"""Who may make a call, and for whom: the one place that decides, for every transport."""

from collections.abc import Callable, Iterable, Sequence

from carousel.errors import Overloaded, PermissionDenied, Unauthenticated
from carousel.identity.attempts import WrongAttempts, host_of
from carousel.identity.principals import Principal, Principals
from carousel.identity.scopes import OF_SERVER, PROBES, SCOPES, TURN_SCOPES, Scope
from carousel.identity.watched_files import WatchedFiles
from carousel.records import record

_OF_A_MODEL = TURN_SCOPES | {Scope.SESSIONS}
_SCHEME = "bearer "
_UNKNOWN = "the call needs a token or a certificate that this server knows"


def _no_subjects() -> Sequence[str]:
    return ()


@record(frozen=True, slots=True)
class Evidence:
    """What a transport knows of a caller: metadata or headers, where the call comes from (as gRPC writes a peer), and
    how to read the names in its certificate, if one was checked."""

    metadata: Iterable[tuple[str, str | bytes]] = ()
    peer: str = ""
    read_subjects: Callable[[], Sequence[str]] = _no_subjects


@record(frozen=True, slots=True)
class Admission:
    """Whose sessions the caller sees, and the principal's name; both are empty where nobody is told apart."""

    owner: str
    principal: str = ""


class Doorkeeper:
    """Decides over each call once, at its begin. Without principals everybody may call."""

    def __init__(
        self,
        owner_key: str = "",
        principals: WatchedFiles[Principals] | None = None,
        model: str = "",
        anonymous: Iterable[str] = PROBES,
    ) -> None:
        """`owner_key` is the metadata key, in lower case, in which a trusted proxy names for whom it calls; if it is
        empty, nobody does. `model` is the server's. `anonymous` calls need no identity."""
        self._owner_key = owner_key
        self._principals = principals
        self._model = model
        self._anonymous = frozenset(anonymous)
        self._wrong = WrongAttempts()

    def admit(self, call: str, evidence: Evidence) -> Admission:
        """`call` is a key of SCOPES. Raises Unauthenticated for an unknown caller, PermissionDenied for one that may
        not make this call, and Overloaded for one of many wrong attempts."""
        if self._is_open(call):
            return self._admit_anybody(call, evidence)
        principal = self._find(evidence)
        if principal is None:
            if (seconds := self._wrong.wait_seconds(host_of(evidence.peer))) > 0:
                raise Overloaded(_UNKNOWN, limit="wrong_attempts", retry_seconds=seconds)
            raise Unauthenticated(_UNKNOWN)
        return self._admit_principal(principal, call, evidence)

    def check_again(self, call: str, evidence: Evidence, admission: Admission) -> None:
        """For an open call, after the principals have changed. Raises Unauthenticated or PermissionDenied where the
        caller would not be admitted now, or for another owner."""
        if self._is_open(call):
            return
        principal = self._find(evidence)
        if principal is None or self._admit_principal(principal, call, evidence) != admission:
            raise Unauthenticated(_UNKNOWN)

    def _is_open(self, call: str) -> bool:
        return self._principals is None or call in self._anonymous

    def _admit_anybody(self, call: str, evidence: Evidence) -> Admission:
        return Admission("" if call in OF_SERVER else self._read_owner(evidence))

    def _admit_principal(self, principal: Principal, call: str, evidence: Evidence) -> Admission:
        if (needed := SCOPES.get(call)) is None:
            raise PermissionDenied("this server lets nobody make this call", principal=principal.name)
        if not principal.may(needed):
            why = f"{call} needs the scope {' or '.join(sorted(needed))}, which {principal.name} does not have"
            raise PermissionDenied(why, principal=principal.name)
        if needed <= _OF_A_MODEL and not principal.may_use(self._model):
            why = f"{principal.name} may not use the model {self._model}"
            raise PermissionDenied(why, principal=principal.name)
        if principal.forwards and self._owner_key and call not in OF_SERVER:
            return Admission(self._read_owner(evidence), principal.name)
        return Admission(principal.owner_name, principal.name)

    def _find(self, evidence: Evidence) -> Principal | None:
        """A token decides, else the certificate. An unknown token and none are the same."""
        assert self._principals is not None
        principals = self._principals.current
        tokens = [value for key, value in evidence.metadata if key.lower() == "authorization"]
        if not tokens:
            return principals.of_certificate(evidence.read_subjects())
        return principals.of_token(_read_token(tokens[0])) if len(tokens) == 1 else None

    def _read_owner(self, evidence: Evidence) -> str:
        """Returns the owner whom a proxy names. Raises Unauthenticated unless there is exactly one value and it is not
        empty: a header that a client adds beside the proxy's must not win."""
        if not self._owner_key:
            return ""
        named = [value for key, value in evidence.metadata if key.lower() == self._owner_key]
        if len(named) != 1 or not named[0]:
            raise Unauthenticated(f"the call must name its caller once, in {self._owner_key}")
        return named[0] if isinstance(named[0], str) else named[0].decode("utf-8", errors="backslashreplace")


def name_subjects(uris: Iterable[str], common_names: Iterable[str]) -> list[str]:
    """Returns the names by which a checked certificate is known: its SPIFFE ids, then its common names. A common name
    that looks like a SPIFFE id is left out: authorities check the two by different rules."""
    spiffe = [uri for uri in uris if uri.startswith("spiffe://")]
    return spiffe + [name for name in common_names if not name.lower().startswith("spiffe:")]


def _read_token(value: str | bytes) -> str:
    """Returns an empty text, which is nobody's token, where the value is no bearer token."""
    text = value if isinstance(value, str) else value.decode("ascii", errors="replace")
    return text[len(_SCHEME) :].strip() if text[: len(_SCHEME)].lower() == _SCHEME else ""

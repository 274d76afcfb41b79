"""Who may make a call, and for whom: the one place that decides, for every transport."""

from collections.abc import Iterable, Mapping, Sequence

from carousel.errors import Overloaded, PermissionDenied, Unauthenticated
from carousel.identity.attempts import WrongAttempts, host_of
from carousel.identity.principals import Principal, Principals, Scope
from carousel.identity.watched_files import WatchedFiles
from carousel.records import record

_TURNS = frozenset({Scope.GENERATE, Scope.SCORE})
SCOPES: Mapping[str, frozenset[Scope]] = {  # one of them is needed; what stands not here is for `admin` alone
    "Generate": frozenset({Scope.GENERATE}),
    "Predict": frozenset({Scope.GENERATE}),
    "PredictMany": frozenset({Scope.GENERATE}),
    "Score": frozenset({Scope.SCORE}),
    "Tokenize": _TURNS,
    "Detokenize": _TURNS,
    "ListModels": frozenset(Scope),
    "GetModel": frozenset(Scope),
    "Reflection": frozenset(Scope),
    "Health": frozenset(Scope),
    "Metrics": frozenset({Scope.METRICS}),
} | dict.fromkeys(
    ("CreateSession", "GetSession", "ListSessions", "DeleteSession", "ForkSession", "RewindSession",
     "SaveCheckpoint", "GetHistory", "ExportSession", "ImportSession", "WatchSessions"),
    frozenset({Scope.SESSIONS}),
)  # fmt: skip
_OF_A_MODEL = _TURNS | {Scope.SESSIONS}
_SCHEME = "bearer "
_UNKNOWN = "the call needs a token or a certificate that this server knows"


@record(frozen=True, slots=True)
class Evidence:
    """What a transport knows of a caller: metadata or headers, the names in a certificate that was checked, and where
    the call comes from."""

    metadata: Iterable[tuple[str, str | bytes]] = ()
    subjects: Sequence[str] = ()
    peer: str = ""


@record(frozen=True, slots=True)
class Admission:
    """Whose sessions the caller sees, and the principal's name; both are empty where nobody is told apart."""

    owner: str
    principal: str = ""


class Doorkeeper:
    """`owner_key` is the metadata key, in lower case, in which a trusted proxy names for whom it calls; empty: nobody
    does. Without principals everybody may call, and everybody is trusted with that key."""

    def __init__(
        self, owner_key: str = "", principals: WatchedFiles[Principals] | None = None, model: str = ""
    ) -> None:
        self._owner_key = owner_key
        self._principals = principals
        self._model = model
        self._wrong = WrongAttempts()

    @property
    def knows_principals(self) -> bool:
        """Where not, a transport need not look for certificates."""
        return self._principals is not None

    def admit(self, method: str, evidence: Evidence) -> Admission:
        """Raises Unauthenticated for an unknown caller, PermissionDenied for one that may not call this method, and
        Overloaded for one of many wrong attempts."""
        if self._principals is None:
            return Admission(self._named_owner(evidence))
        principal = self._identify(self._principals.current, evidence)
        needed = SCOPES.get(method, frozenset())
        if not principal.may(needed):
            names = " or ".join(sorted(needed)) or Scope.ADMIN
            raise PermissionDenied(f"{method} needs the scope {names}, which {principal.name} does not have")
        if needed <= _OF_A_MODEL and not principal.may_use(self._model):
            raise PermissionDenied(f"{principal.name} may not use the model {self._model}")
        forwards = principal.forwards and self._owner_key
        return Admission(self._named_owner(evidence) if forwards else principal.owner_name, principal.name)

    def _identify(self, principals: Principals, evidence: Evidence) -> Principal:
        """A token decides, else the certificate. An unknown token and none get the same answer."""
        tokens = [value for key, value in evidence.metadata if key.lower() == "authorization"]
        if tokens:
            found = principals.of_token(_read_token(tokens[0])) if len(tokens) == 1 else None
        else:
            found = principals.of_certificate(evidence.subjects)
        if found is not None:
            return found
        if (seconds := self._wrong.wait_seconds(host_of(evidence.peer))) > 0:
            raise Overloaded(_UNKNOWN, limit="wrong_attempts", retry_seconds=seconds)
        raise Unauthenticated(_UNKNOWN)

    def _named_owner(self, evidence: Evidence) -> str:
        """Raises Unauthenticated unless exactly one value, not empty, names the owner: a client's own header beside the
        proxy's must not win."""
        if not self._owner_key:
            return ""
        named = [value for key, value in evidence.metadata if key.lower() == self._owner_key]
        if len(named) != 1 or not named[0]:
            raise Unauthenticated(f"the call must name its caller once, in {self._owner_key}")
        return named[0] if isinstance(named[0], str) else named[0].decode("utf-8", errors="backslashreplace")


def name_subjects(uris: Iterable[str], common_names: Iterable[str]) -> list[str]:
    """What a checked certificate is known by: its SPIFFE ids, then its common names. A common name that looks like a
    SPIFFE id is none: authorities check the two by different rules."""
    spiffe = [uri for uri in uris if uri.startswith("spiffe://")]
    return spiffe + [name for name in common_names if not name.lower().startswith("spiffe:")]


def _read_token(value: str | bytes) -> str:
    """Empty, which is nobody's, where it is no bearer token."""
    text = value if isinstance(value, str) else value.decode("ascii", errors="replace")
    return text[len(_SCHEME) :].strip() if text[: len(_SCHEME)].lower() == _SCHEME else ""

"""The domain's errors. This module knows no transport; `rpc/errors.py` maps it once.

Every error has a message for the caller and, where it helps, facts (`details`) that a program can read.
"""


class CarouselError(Exception):
    """The base class of all expected errors. `reason` is a stable machine-readable name; `details` are string facts."""

    reason = "UNKNOWN"

    def __init__(self, message: str, **details: str) -> None:
        super().__init__(message)
        self.details = details


class InvalidRequest(CarouselError):
    """A value of the request is out of range. `field` has its name on the wire (dots for nesting)."""

    reason = "INVALID_REQUEST"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}", field=field)
        self.field = field


class ChatTemplateMissing(InvalidRequest):
    """The request has messages, and the model's bundle does not say how they become text."""

    reason = "CHAT_TEMPLATE_MISSING"


class Unauthenticated(CarouselError):
    """The caller is unknown, but must be known."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(CarouselError):
    """The caller may not do this: it lacks a scope, or a setting of the server does not allow it (`setting`)."""

    reason = "PERMISSION_DENIED"


class MessageInvalid(CarouselError):
    """The bytes of a request are not a message of the wire contract."""

    reason = "MESSAGE_INVALID"


class SessionNotFound(CarouselError):
    """The session does not exist, or belongs to another owner: the caller cannot tell the two apart."""

    reason = "SESSION_NOT_FOUND"


class SessionExists(CarouselError):
    """The id that the caller chose is taken."""

    reason = "SESSION_EXISTS"


class SessionEnded(CarouselError):
    """The session has ended. `details` hold how (`ending`) and when (`ended_at`, seconds since the epoch) where known:
    a store remembers one ending of an id, that of its last session."""

    reason = "SESSION_ENDED"


class SessionExpired(SessionEnded):
    """Its idle or absolute lifetime has passed."""

    reason = "SESSION_EXPIRED"


class SessionEvicted(SessionEnded):
    """The store was full, and this session was unused for longest."""

    reason = "SESSION_EVICTED"


class SessionDeleted(SessionEnded):
    """It was deleted."""

    reason = "SESSION_DELETED"


class SessionMoved(CarouselError):
    """Another caller advanced the session while the turn ran, so the turn was not applied. A retry is safe."""

    reason = "SESSION_MOVED"


class PositionMismatch(CarouselError):
    """The caller expected the session at another position. Nothing was changed; `details` hold the current one."""

    reason = "POSITION_MISMATCH"

    def __init__(self, expected: int, current: int) -> None:
        super().__init__(f"the session is at position {current}, not {expected}", position=str(current))


class PositionUnknown(CarouselError):
    """A rewind or fork names a position or checkpoint that is not retained."""

    reason = "POSITION_UNKNOWN"


class AnswerGone(CarouselError):
    """The request was applied before, and its answer is no longer kept. Nothing was changed now."""

    reason = "ANSWER_GONE"


class StateInvalid(CarouselError):
    """A snapshot is damaged, has another format version, or belongs to another model."""

    reason = "STATE_INVALID"


class StateRefused(CarouselError):
    """A sealed state was altered, has expired, belongs to another owner, was used before, or has no key here."""

    reason = "STATE_REFUSED"


class StoreUnavailable(CarouselError):
    """The session store does not answer. The turn was not applied. With the detail `in_doubt` it may have been; a retry
    with its request id settles that."""

    reason = "STORE_UNAVAILABLE"
    retry_seconds = 1.0


class FiguresUnavailable(CarouselError):
    """No worker has told its figures in time."""

    reason = "FIGURES_UNAVAILABLE"


class StoreInvalid(CarouselError):
    """A session store's file or server is not ours, damaged, or in use."""

    reason = "STORE_INVALID"


class Overloaded(CarouselError):
    """A limit is reached. Nothing was executed; a retry after `retry_seconds` may succeed."""

    reason = "OVERLOADED"

    def __init__(self, message: str, *, limit: str, retry_seconds: float) -> None:
        super().__init__(message, limit=limit)
        self.limit = limit
        self.retry_seconds = retry_seconds


class ModelNotFound(CarouselError):
    """The request names a model that this server does not hold."""

    reason = "MODEL_NOT_FOUND"


class ModelFailed(CarouselError):
    """The model raised an error or produced a value that is not a number. The session is unchanged."""

    reason = "MODEL_FAILED"


class ShuttingDown(CarouselError):
    """The server is stopping; the turn was not executed, or ended without changing its session."""

    reason = "SHUTTING_DOWN"


class BundleInvalid(CarouselError):
    """A bundle is incomplete, edited, has an unknown format version, or refers outside itself."""

    reason = "BUNDLE_INVALID"


class ProviderUnavailable(CarouselError):
    """None of the requested execution providers is available in this installation."""

    reason = "PROVIDER_UNAVAILABLE"


class SettingsInvalid(CarouselError):
    """A setting is unknown or out of range; the message names it."""

    reason = "SETTINGS_INVALID"

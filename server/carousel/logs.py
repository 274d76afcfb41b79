"""The log: JSON lines on standard error, without a word that a user wrote.

An error's text and its frames' variables may contain prompts. So the log describes an error only by its type and its
places, also where asyncio, a library or the interpreter itself would print it.
"""

import asyncio
import logging
import sys
import threading
from collections.abc import Iterator, MutableMapping
from types import FrameType, TracebackType
from typing import Any

import structlog

_MAX_FRAMES = 30
_MAX_ERRORS = 5  # in a chain, and in a group


def configure(level: str) -> None:
    """Sets up this process's log: for our own lines, those of libraries, and uncaught errors."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            _describe_exception,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[LibraryHandler()], level=max(logging.WARNING, getattr(logging, level.upper())))
    sys.excepthook = _note_uncaught
    threading.excepthook = lambda caught: _note_error("thread died", caught.exc_value)
    sys.unraisablehook = lambda caught: _note_error("error in a finalizer", caught.exc_value)


def watch_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Logs errors in the loop that reach no caller, such as an error of a task that is never awaited."""
    loop.set_exception_handler(_note_loop_error)


def describe(error: BaseException) -> dict[str, Any]:
    """Returns the types and places of an error and of its causes, never their texts."""
    described: dict[str, Any] = {"type": _name(type(error)), "frames": list(_places(error.__traceback__))}
    if isinstance(error, BaseExceptionGroup):
        described["group"] = [describe(one) for one in error.exceptions[:_MAX_ERRORS]]
    chain = [{"type": _name(type(one)), "frames": list(_places(one.__traceback__))} for one in _causes(error)]
    return described | ({"causes": chain} if chain else {})


def place(frame: FrameType, line: int | None) -> str:
    """Returns a frame's place as `module:line function`."""
    return f"{frame.f_globals.get('__name__', '?')}:{line or 0} {frame.f_code.co_qualname}"


class LibraryHandler(logging.Handler):
    """Logs the lines of the standard library's logging: the logger, the place and the error. It leaves the message out,
    except a template without its arguments."""

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, Any] = {"logger": record.name, "at": f"{record.module}:{record.lineno}"}
        if record.args and isinstance(record.msg, str):
            facts["template"] = record.msg
        if record.exc_info and record.exc_info[1] is not None:
            facts["error"] = describe(record.exc_info[1])
        log = structlog.get_logger("carousel.logs")
        (log.error if record.levelno >= logging.ERROR else log.warning)("library", **facts)


def _describe_exception(logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    error = line.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        line["error"] = describe(error)
    return line


def _note_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    task = context.get("task") or context.get("future")
    name = task.get_name() if isinstance(task, asyncio.Task) else ""
    facts = {"error": describe(error)} if error is not None else {}
    structlog.get_logger("carousel.logs").error("error in the event loop", task=name, **facts)


def _note_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    _note_error("the process died", error)


def _note_error(event: str, error: BaseException | None) -> None:
    facts = {"error": describe(error)} if error is not None else {}
    structlog.get_logger("carousel.logs").error(event, **facts)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the error's causes, nearest first."""
    seen = {id(error)}
    for _ in range(_MAX_ERRORS):
        behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if behind is None or id(behind) in seen:
            return
        seen.add(id(behind))
        yield behind
        error = behind


def _places(trace: TracebackType | None) -> Iterator[str]:
    """Yields the places of the innermost frames, outermost first."""
    found = []
    while trace is not None:
        found.append(place(trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    yield from found[-_MAX_FRAMES:]


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"

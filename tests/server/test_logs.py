"""The log says what went wrong and where, and contains no text of an error, a variable or a library."""

import asyncio
import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from carousel import logs

SECRET = "swordfish"


def fail(depth: int = 1) -> None:
    prompt = SECRET * depth  # a variable of the frame
    if depth:
        fail(depth - 1)
    raise ValueError(f"cannot read {prompt or SECRET}")


def caught(function: Any = fail) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("it must raise")


def test_an_error_is_described_by_type_and_places() -> None:
    """The description has module, line and function of each frame, innermost last, and neither text nor variables."""
    found = logs.describe(caught())
    assert found["type"] == "builtins.ValueError"
    names = [place.split()[-1] for place in found["frames"]]
    assert names == ["caught", "fail", "fail"]
    line = fail.__code__.co_firstlineno + 4
    assert found["frames"][-1] == f"{__name__}:{line} fail"
    assert SECRET not in json.dumps(found)
    assert "causes" not in found


def test_what_is_behind_an_error_is_described_too() -> None:
    """Causes and contexts come nearest first, with the members of a group; a circle ends."""

    def chain() -> None:
        try:
            fail()
        except ValueError as error:
            raise KeyError(SECRET) from error

    found = logs.describe(caught(chain))
    assert [one["type"] for one in found["causes"]] == ["builtins.ValueError"]
    assert len(found["causes"][0]["frames"]) == 3
    group = logs.describe(ExceptionGroup(SECRET, [caught(), caught(chain)]))
    assert [one["type"] for one in group["group"]] == ["builtins.ValueError", "builtins.KeyError"]
    one, other = ValueError(), KeyError()
    one.__cause__, other.__cause__ = other, one
    assert len(logs.describe(one)["causes"]) == 1
    hidden = ValueError()
    hidden.__context__, hidden.__suppress_context__ = KeyError(), True
    assert "causes" not in logs.describe(hidden)
    assert SECRET not in json.dumps([found, group])


def test_a_deep_stack_is_cut() -> None:
    """The innermost frames stay."""
    found = logs.describe(caught(lambda: fail(100)))
    assert len(found["frames"]) == 30
    assert found["frames"][-1].endswith(" fail")


PROGRAM = """
import asyncio, gc, logging, sys, threading
from carousel import logs
import structlog
SECRET = "sword" + "fish"
logs.configure("info")

def fail(*_):
    prompt = SECRET
    raise ValueError(prompt)

class Finalized:
    def __del__(self):
        fail()

async def main():
    logs.watch_loop(asyncio.get_running_loop())
    async def work():
        fail()
    task = asyncio.create_task(work(), name="the task")
    await asyncio.sleep(0)
    del task
    gc.collect()
    asyncio.get_running_loop().call_soon(fail)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

log = structlog.get_logger()
try:
    fail()
except ValueError as error:
    log.error("one", exc_info=error)
    log.error("two", exc_info=True)
    logging.getLogger("lib").exception("it failed: %s", error)
    logging.getLogger("lib").warning(f"it failed: {error}")
    logging.getLogger("lib").warning("%d", error)
logging.getLogger("lib").info(SECRET)
asyncio.run(main())
thread = threading.Thread(target=fail)
thread.start()
thread.join()
Finalized()
fail()
"""


@pytest.fixture(scope="module")
def output() -> str:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stdout + done.stderr


def test_no_way_out_tells_the_text(output: str) -> None:
    """The ways out are our log, a library's, a forgotten task, a callback, a thread, a finalizer and the end of the
    process."""
    assert SECRET not in output
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["event"] for line in lines] == [
        "one",
        "two",
        "library",
        "library",
        "library",
        "error in the event loop",
        "error in the event loop",
        "thread died",
        "error in a finalizer",
        "the process died",
    ]
    for line in lines:
        if line["event"] != "library" or "template" in line and "failed" in line["template"]:
            assert line["error"]["type"] == "builtins.ValueError"
            assert line["error"]["frames"][-1].startswith("__main__:")


def test_a_librarys_line_says_who_and_where(output: str) -> None:
    """The line has the logger, the place, and the template where the arguments are apart from it."""
    lines = [json.loads(line) for line in output.splitlines() if '"library"' in line]
    assert [line.get("template") for line in lines] == ["it failed: %s", None, "%d"]
    assert {line["logger"] for line in lines} == {"lib"}
    assert [line["level"] for line in lines] == ["error", "warning", "warning"]


def test_a_task_is_named(output: str) -> None:
    """The log says which task it was."""
    lines = [json.loads(line) for line in output.splitlines() if "event loop" in line]
    assert [line["task"] for line in lines] == ["the task", ""]


async def test_an_event_of_the_loop_without_an_error_is_told() -> None:
    """asyncio reports some mistakes only by a text; that text is not logged."""
    loop = asyncio.new_event_loop()
    try:
        logs.watch_loop(loop)
        loop.call_exception_handler({"message": SECRET})
    finally:
        loop.close()


def test_a_record_without_arguments_keeps_its_message() -> None:
    """The line leaves it out, since its parts are unknown."""
    record = logging.LogRecord("lib", logging.ERROR, "x/y.py", 7, SECRET, None, None)
    import structlog

    with structlog.testing.capture_logs() as lines:
        logs.LibraryHandler().emit(record)
    assert lines == [{"event": "library", "logger": "lib", "at": "y:7", "log_level": "error"}]


SERVED = """
import sys
from unittest import mock
from carousel.cli import serve
from carousel.cli.main import main

async def fail(*given):
    prompt = "sword" + "fish"
    raise ValueError(prompt)

sys.argv = ["carousel", "serve", "somewhere"]
with mock.patch.object(serve, "serve_bundle", fail):
    main()
"""


def test_a_server_that_dies_keeps_texts_to_itself() -> None:
    """It dies by an unexpected error: exit code 1 and a line, without a rich traceback and its variables."""
    done = subprocess.run([sys.executable, "-c", SERVED], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert SECRET not in done.stdout + done.stderr
    line = json.loads(done.stderr.splitlines()[-1])
    assert (line["event"], line["error"]["type"]) == ("the process died", "builtins.ValueError")

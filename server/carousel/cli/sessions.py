"""`carousel sessions ...`: the sessions that the server keeps for this caller."""

import dataclasses
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from carousel.cli.connection import DEFAULT_ADDRESS, Address, AsJson, open_client
from carousel.cli.texts import STANDARD_INPUT
from carousel.client import Client, Retries, SessionInfo
from carousel.errors import CarouselError

Id = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]
Position = Annotated[int | None, typer.Option(help="A turn boundary in the session's history. Default: now.", min=0)]
Checkpoint = Annotated[str, typer.Option(help="A checkpoint's name.")]

_RETRIES = Retries(max_attempts=3)  # a lost answer is retried; an absent server is reported at once


def list_sessions(as_json: AsJson = False, address: Address = DEFAULT_ADDRESS) -> None:
    """List the live sessions, oldest first."""
    with _connect(address) as client:
        if as_json:
            for session in client.list_sessions():
                print(_to_json(session))
        else:
            _print_table(client.list_sessions())


def create(
    session_id: Annotated[str, typer.Argument(metavar="[ID]", help="Default: one that cannot be guessed.")] = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Start a session and print its id."""
    with _connect(address) as client:
        print(client.create_session(session_id).session_id)


def get(session_id: Id, as_json: AsJson = False, address: Address = DEFAULT_ADDRESS) -> None:
    """Describe a session."""
    with _connect(address) as client:
        session = client.get_session(session_id)
    if as_json:
        print(_to_json(session))
        return
    for name, value in dataclasses.asdict(session).items():
        print(f"{name.replace('_', ' '):<14} {_show_time(value) if isinstance(value, datetime) else value}")


def delete(
    session_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The sessions' ids.")],
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Delete sessions."""
    with _connect(address) as client:
        for session_id in session_ids:
            client.delete_session(session_id)


def fork(
    session_id: Id,
    count: Annotated[int | None, typer.Option(help="How many. Default: one, or one for each --new-id.", min=1)] = None,
    new_id: Annotated[list[str] | None, typer.Option(help="The new session's id. Repeatable.")] = None,
    position: Position = None,
    checkpoint: Checkpoint = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Create sessions that start where this one is or was, and print their ids."""
    _check_point(position, checkpoint)
    with _connect(address) as client:
        for made in client.fork_session(
            session_id, count, position=position, checkpoint=checkpoint, new_ids=new_id or ()
        ):
            print(made.session_id)


def rewind(
    session_id: Id, position: Position = None, checkpoint: Checkpoint = "", address: Address = DEFAULT_ADDRESS
) -> None:
    """Move a session back to a position or a checkpoint; everything after that point is lost. Prints the position."""
    _check_point(position, checkpoint)
    if position is None and not checkpoint:
        raise typer.BadParameter("either --position or --checkpoint says where to")
    with _connect(address) as client:
        print(client.rewind_session(session_id, position=position, checkpoint=checkpoint).position)


def checkpoint(
    session_id: Id,
    name: Annotated[str, typer.Argument(help="The checkpoint's name. Using a name again moves it.")],
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Save a session's current position under a name, and print it."""
    with _connect(address) as client:
        print(client.save_checkpoint(session_id, name).position)


def history(session_id: Id, as_json: AsJson = False, address: Address = DEFAULT_ADDRESS) -> None:
    """List the points a session can go back to; the last line is its current position."""
    with _connect(address) as client:
        found = client.get_history(session_id)
    if as_json:
        print(json.dumps({"positions": found.positions, "checkpoints": dict(found.checkpoints)}))
        return
    for position in sorted({*found.positions, *found.checkpoints.values()}):
        names = (name for name, marked in found.checkpoints.items() if marked == position)
        print(" ".join([f"{position:,}", *names]))


def export(
    session_id: Id,
    file: Annotated[str, typer.Argument(help="Where to write it; - writes to standard output.")],
    ttl: Annotated[float | None, typer.Option(help="Seconds for which it is valid. Default: a day.")] = None,
    position: Position = None,
    checkpoint: Checkpoint = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Write a session's sealed state, which a server with the same keys and model can import."""
    _check_point(position, checkpoint)
    if file == STANDARD_INPUT and sys.stdout.isatty():
        raise typer.BadParameter("a state is binary and cannot be shown on a terminal: name a file, or pipe the output")
    good_for = None if ttl is None else timedelta(seconds=ttl)
    with _connect(address) as client:
        state = client.export_session(session_id, good_for, position=position, checkpoint=checkpoint)
    if file == STANDARD_INPUT:
        sys.stdout.buffer.write(state)
        return
    try:
        Path(file).write_bytes(state)
    except OSError as error:
        raise CarouselError(f"{file}: {error.strerror}") from error


def import_state(
    file: Annotated[str, typer.Argument(help="What export wrote; - reads standard input.")],
    session_id: Annotated[str, typer.Argument(metavar="[ID]", help="Default: one that cannot be guessed.")] = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Create a session from a sealed state and print its id."""
    try:
        state = sys.stdin.buffer.read() if file == STANDARD_INPUT else Path(file).read_bytes()
    except OSError as error:
        raise CarouselError(f"{file}: {error.strerror}") from error
    with _connect(address) as client:
        print(client.import_session(state, session_id).session_id)


def watch(as_json: AsJson = False, address: Address = DEFAULT_ADDRESS) -> None:
    """Print the events of the sessions from now on, one line each, until interrupted."""
    with suppress(KeyboardInterrupt), _connect(address) as client, client.watch() as events:
        for event in events:
            line = _to_json(event) if as_json else f"{_show_time(event.time)}  {event.kind:<7}  {event.session_id}"
            print(line, flush=True)


def _connect(address: str) -> Client:
    return open_client(address, retries=_RETRIES)


def _check_point(position: int | None, checkpoint: str) -> None:
    if position is not None and checkpoint:
        raise typer.BadParameter("either --position or --checkpoint, not both")


def _to_json(value: Any) -> str:
    """Returns JSON of a dataclass of plain values and times."""
    return json.dumps(dataclasses.asdict(value), default=datetime.isoformat)


def _print_table(sessions: Iterable[SessionInfo]) -> None:
    rows: list[tuple[str, ...]] = [("id", "model", "position", "created", "last used", "expires")]
    for one in sessions:
        times = (_show_time(when) for when in (one.create_time, one.update_time, one.expire_time))
        rows.append((one.session_id, one.model, f"{one.position:,}", *times))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _show_time(when: datetime) -> str:
    """Returns the time in the user's time zone."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")

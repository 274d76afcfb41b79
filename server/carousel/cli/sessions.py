"""`carousel sessions ...`: the conversations that the server keeps for this caller."""

import dataclasses
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import typer

from carousel.cli.connection import DEFAULT_ADDRESS, Address, AsJson
from carousel.client import Client, SessionInfo

Id = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]


def list_sessions(as_json: AsJson = False, address: Address = DEFAULT_ADDRESS) -> None:
    """List the live sessions, oldest first."""
    with Client(address) as client:
        if as_json:
            for session in client.list_sessions():
                print(_to_json(session))
        else:
            _print_table(client.list_sessions())


def create(
    session_id: Annotated[str, typer.Argument(metavar="[ID]", help="Default: one that nobody can guess.")] = "",
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """Start a session and print its id."""
    with Client(address) as client:
        print(client.create_session(session_id).session_id)


def get(session_id: Id, as_json: AsJson = False, address: Address = DEFAULT_ADDRESS) -> None:
    """Describe a session."""
    with Client(address) as client:
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
    with Client(address) as client:
        for session_id in session_ids:
            client.delete_session(session_id)


def _to_json(session: SessionInfo) -> str:
    return json.dumps(dataclasses.asdict(session), default=datetime.isoformat)


def _print_table(sessions: Iterable[SessionInfo]) -> None:
    rows: list[tuple[str, ...]] = [("id", "model", "position", "created", "last used", "expires")]
    for one in sessions:
        times = (_show_time(when) for when in (one.create_time, one.update_time, one.expire_time))
        rows.append((one.session_id, one.model, f"{one.position:,}", *times))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _show_time(when: datetime) -> str:
    """In the user's time zone."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")

"""`carousel token new`: a token for a principal, and what the server's file is to say of it."""

import secrets
import sys
from typing import Annotated

import typer

from carousel.errors import SettingsInvalid
from carousel.identity.principals import MIN_TOKEN_BYTES, Principal, digest
from carousel.identity.scopes import Scope

_ADVICE = "Give it to the principal alone, as CAROUSEL_TOKEN in its environment. The server's file has only its hash."
_PREFIX = "crl_"  # so that scanners of repositories can find one that should not be there


def new(
    name: Annotated[str, typer.Argument(help="The principal's name: letters, digits and . _ / @ -")],
    scopes: Annotated[
        list[Scope] | None, typer.Option("--scope", help="May be repeated. Default: generate, score, sessions.")
    ] = None,
) -> None:
    """Print the lines for the file that the setting principals names, and on standard error the new token, only now."""
    token = _PREFIX + secrets.token_urlsafe(MIN_TOKEN_BYTES)
    given = scopes or [Scope.GENERATE, Scope.SCORE, Scope.SESSIONS]
    try:
        principal = Principal(name=name, scopes=frozenset(given), tokens=(digest(token),))
    except ValueError as error:
        raise SettingsInvalid(f"{name!r} is no name: up to 128 letters, digits and . _ / @ -") from error
    print(f"The token is {token}\n{_ADVICE}", file=sys.stderr)
    print(f'[[principal]]\nname = "{principal.name}"\ntokens = ["{principal.tokens[0]}"]')
    print(f"scopes = [{', '.join(f'{chr(34)}{one}{chr(34)}' for one in dict.fromkeys(given))}]")

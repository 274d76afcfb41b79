"""Clients that use the client library as its users do: blocking and asyncio, with no retries of their own."""

import asyncio
import random
import time

from trials.histories import History, Line, Turn, Wish, draw_wish
from trials.plans import OWNER_KEY, Plan, Way

from carousel.client import AsyncClient, AsyncSession, Client, Piece, Retries, ScorePiece, ServerError, Session

_RETRIES = Retries(max_attempts=60)  # any server is back in less than a minute
_SECONDS = 120.0
_TURNS_BETWEEN_REWINDS = 8
_CHECKPOINT = "here"


async def run_blocking(way: Way, plan: Plan, dice: random.Random) -> History:
    """Runs in a separate thread."""
    return await asyncio.to_thread(_run_blocking, way, plan, dice)


def _run_blocking(way: Way, plan: Plan, dice: random.Random) -> History:
    line = Line()
    history = History("blocking", [line])
    owner = ((OWNER_KEY, way.owner),)
    try:
        client = Client(way.address, tls=way.tls, metadata=owner, retries=_RETRIES, timeout_seconds=_SECONDS)
        with client, client.session(way.session_id, keep=True) as session:
            for number in range(plan.num_turns):
                line.turns.append(_take_turn(session, draw_wish(dice, plan.vocabulary_size)))
                history.hear()
                if number % _TURNS_BETWEEN_REWINDS == 0:
                    _go_back(session, draw_wish(dice, plan.vocabulary_size))
                    history.hear()
                time.sleep(plan.pause_seconds * dice.random() * 2)
            line.final_position = session.get().position
    except ServerError as error:
        _note_trouble(history, error)
    return history


def _take_turn(session: Session, wish: Wish) -> Turn:
    match wish.call:
        case "generate":
            return _generated(
                wish, list(session.generate(wish.ids, max_tokens=wish.max_tokens, temperature=0.9, seed=wish.seed))
            )
        case "score":
            return _scored(wish, list(session.score(wish.ids)))
        case "predict":
            made = session.predict(wish.ids, k=3)
            likeliest = tuple(value for one in made.candidates for value in (one.id, one.log_probability))
            return Turn(wish, made.position, likeliest)


def _go_back(session: Session, wish: Wish) -> None:
    """A turn that is then rewound."""
    session.checkpoint(_CHECKPOINT)
    _take_turn(session, wish)
    session.rewind(checkpoint=_CHECKPOINT)


async def run_asyncio(way: Way, plan: Plan, dice: random.Random) -> History:
    """Works as `run_blocking`."""
    line = Line()
    history = History("asyncio", [line])
    owner = ((OWNER_KEY, way.owner),)
    try:
        client = AsyncClient(way.address, tls=way.tls, metadata=owner, retries=_RETRIES, timeout_seconds=_SECONDS)
        async with client, client.session(way.session_id, keep=True) as session:
            for number in range(plan.num_turns):
                line.turns.append(await await_turn(session, draw_wish(dice, plan.vocabulary_size)))
                history.hear()
                if number % _TURNS_BETWEEN_REWINDS == 0:
                    await _await_going_back(session, draw_wish(dice, plan.vocabulary_size))
                    history.hear()
                await asyncio.sleep(plan.pause_seconds * dice.random() * 2)
            line.final_position = (await session.get()).position
    except ServerError as error:
        _note_trouble(history, error)
    return history


async def await_turn(session: AsyncSession, wish: Wish) -> Turn:
    match wish.call:
        case "generate":
            stream = session.generate(wish.ids, max_tokens=wish.max_tokens, temperature=0.9, seed=wish.seed)
            return _generated(wish, [piece async for piece in stream])
        case "score":
            return _scored(wish, [piece async for piece in session.score(wish.ids)])
        case "predict":
            made = await session.predict(wish.ids, k=3)
            likeliest = tuple(value for one in made.candidates for value in (one.id, one.log_probability))
            return Turn(wish, made.position, likeliest)


async def _await_going_back(session: AsyncSession, wish: Wish) -> None:
    await session.checkpoint(_CHECKPOINT)
    await await_turn(session, wish)
    await session.rewind(checkpoint=_CHECKPOINT)


def _generated(wish: Wish, pieces: list[Piece]) -> Turn:
    end = pieces[-1].finished
    return Turn(wish, end.position if end else None, tuple(token.id for piece in pieces for token in piece.tokens))


def _scored(wish: Wish, pieces: list[ScorePiece]) -> Turn:
    end = pieces[-1].totals
    tokens = [token for piece in pieces for token in piece.tokens]
    return Turn(wish, end.position if end else None, tuple(token.log_probability for token in tokens))


def _note_trouble(history: History, error: ServerError) -> None:
    history.note_trouble(f"{error.code} {error.reason}: {error}", error.reason)
    if error.position is not None:
        history.lines[0].final_position = error.position

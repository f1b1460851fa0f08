"""Asking parties one question, without stopping at silence or bad answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from collabedit.errors import CollabEditError
from collabedit.messages import Request
from collabedit.rounds.transport import Failure, Transport

__all__ = ["Unheard", "ask"]

Answer = TypeVar("Answer")
#: Called with a party that did not answer, the stage, and the reason.
Unheard = Callable[[str, str, Failure], None]


def ask(
    transport: Transport,
    request: Request,
    to: Sequence[str],
    read: Callable[[str, bytes], Answer],
    unheard: Unheard,
) -> dict[str, Answer]:
    """Ask parties, and read their answers.

    Args:
        transport: reaches them.
        request: the same for all.
        to: their names.
        read: parses the bytes of a party, given its name, or raises a ``CollabEditError``.
        unheard: called for parties that don't answer, or whose answer can't be read.

    Returns:
        By name, in the order of ``to``, the answers that could be read.
    """
    replies = transport.exchange(request.to_bytes(), to)
    answers: dict[str, Answer] = {}
    for party in to:
        reply = replies.get(party, Failure("it did not answer"))
        if not isinstance(reply, Failure):
            try:
                answers[party] = read(party, reply)
                continue
            except CollabEditError as error:
                reply = Failure(str(error), error)
        unheard(party, request.kind.value, reply)
    return answers

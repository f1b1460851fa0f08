"""Asking parties one question, where silence and bad answers are no reason to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from collabedit.errors import CollabEditError
from collabedit.messages import Request
from collabedit.rounds.transport import Failure, Transport

__all__ = ["Unheard", "ask"]

Answer = TypeVar("Answer")
#: Is told of a party that did not answer, at which stage, and why.
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
        read: makes an answer of a party's name and bytes, or raises a ``CollabEditError``.
        unheard: is told of parties that don't answer, or whose answer can't be read.

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

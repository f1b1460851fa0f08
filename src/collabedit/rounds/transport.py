"""Moving bytes between a coordinator and parties; one thin adapter for each channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from collabedit.errors import CollabEditError

__all__ = ["Failure", "Transport"]


@dataclass(frozen=True)
class Failure:
    """Why a party did not answer: a value, so that one party's failure does not end the round.

    Attributes:
        reason: one line.
        error: the exception, if it was raised in this process.
    """

    reason: str
    error: CollabEditError | None = None


class Transport(Protocol):
    """Moves bytes between a coordinator and parties, without interpreting them."""

    @property
    def parties(self) -> Sequence[str]:
        """Identifiers of the parties that can be asked."""

    def exchange(self, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        """Ask parties and wait for their answers.

        Args:
            request: the same for all.
            to: identifiers of the parties.

        Returns:
            An answer or a failure for each of them. A transport does not raise for one party.
        """

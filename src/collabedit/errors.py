"""Every error that collabedit raises on purpose.

    CollabEditError
    ├── InputError            a file, a record or an option that the user gave
    │   ├── RequestError      an edit request or an evaluation record
    │   ├── DatasetError      a data set by name, or its partition over parties
    │   └── UnknownNameError  a name that is not in a registry
    ├── ModelError            a model that cannot be loaded or edited
    ├── CovarianceError       statistics that are missing, of another model, or unusable
    ├── RoundError            messages that do not belong to the round
    │   └── ContributionError  what a party sent is malformed or hostile
    └── MissingExtraError     an optional dependency that is not installed

Every message is one line that says what is wrong, where, and how to fix it. The command
line prints that line and exits with status 2; no partial output is left behind.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = [
    "CollabEditError",
    "ContributionError",
    "CovarianceError",
    "DatasetError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "RequestError",
    "RoundError",
    "UnknownNameError",
    "one_line",
    "shown",
]


class CollabEditError(Exception):
    """Base class of all errors raised on purpose."""


class InputError(CollabEditError):
    """A file, a record or an option that the user gave cannot be used."""


class RequestError(InputError):
    """An edit request or an evaluation record is malformed."""


class DatasetError(InputError):
    """A data set cannot be found, downloaded or partitioned as asked."""


class UnknownNameError(InputError):
    """A name is not in a registry; the message lists the names that are."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; choose one of: {', '.join(known)}")


class ModelError(CollabEditError):
    """A model cannot be loaded, or lacks something that editing needs."""


class CovarianceError(CollabEditError):
    """Covariance statistics are missing, of another model, or not usable as a prior."""


class RoundError(CollabEditError):
    """A message does not belong to this round, or comes at the wrong time.

    Attributes:
        party: the party concerned, if there is one.
    """

    def __init__(self, message: str, *, party: str | None = None) -> None:
        super().__init__(message if party is None else f"{party}: {message}")
        self.party = party


class ContributionError(RoundError):
    """A party's contribution is malformed, or not the one that the round waits for."""


class MissingExtraError(CollabEditError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}; install it with: "
            f'pip install "collabedit[{extra}]"'
        )


def one_line(error: ValidationError) -> str:
    """The first problem of a validation error, as one line that names the field."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    parts = (str(part) for part in first["loc"])
    location = ".".join(
        part if part.isprintable() and len(part) < 80 else shown(part) for part in parts
    )
    message = first["msg"].removeprefix("Value error, ")
    return f"{location}: {message}" if location else message


def shown(value: object) -> str:
    """A user's value as shown in messages: on one line, and at most about 80 characters."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80

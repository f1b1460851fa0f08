"""Things that users choose by name: registries of rows, and members of enumerations."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Generic, TypeVar

from collabedit.errors import UnknownNameError

__all__ = ["Registry", "enum_member"]

Row = TypeVar("Row")
Member = TypeVar("Member", bound=Enum)


class Registry(Generic[Row]):
    """Rows by name, in the order in which they were added; lookup is case-insensitive.

    Args:
        kind: what the rows are, for error messages, such as ``merge method``.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._rows: dict[str, tuple[str, Row]] = {}

    def __iter__(self) -> Iterator[Row]:
        return (row for _, row in self._rows.values())

    def copy(self) -> Registry[Row]:
        """A registry with the same rows; additions to one don't affect the other."""
        other: Registry[Row] = Registry(self._kind)
        other._rows = dict(self._rows)
        return other

    def add(self, name: str, row: Row) -> None:
        """Add a row, or replace the one with that name."""
        self._rows[name.lower()] = (name, row)

    def find(self, name: str) -> Row:
        """The row with a name.

        Raises:
            UnknownNameError: when there is none; the message lists the known names.
        """
        found = self._rows.get(name.strip().lower())
        if found is None:
            raise UnknownNameError(self._kind, name, [known for known, _ in self._rows.values()])
        return found[1]


def enum_member(kind: type[Member], name: str, what: str) -> Member:
    """The member of an enumeration whose value is ``name``, case-insensitive.

    Args:
        kind: the enumeration; its values are lower-case texts.
        name: what a user typed.
        what: what the members are, for error messages, such as ``policy``.

    Raises:
        UnknownNameError: when there is none; the message lists the values.
    """
    try:
        return kind(name.strip().lower())
    except ValueError:
        raise UnknownNameError(what, name, [member.value for member in kind]) from None

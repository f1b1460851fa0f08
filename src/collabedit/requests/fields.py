"""Reading the fields of one record, with errors that name it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from collabedit.errors import RequestError, shown
from collabedit.files import RepeatedNames

__all__ = ["Fields", "checked_text", "kind_of"]

#: Case ids name result files and fit a signed 64-bit number.
_LARGEST_ID = 2**63


class Fields:
    """A record's fields. It remembers which were read, so that the others can be reported.

    An optional field that is ``None`` counts as absent.

    Args:
        item: the decoded record.
        where: its name in error messages.

    Raises:
        RequestError: when it is not an object, or gives a name twice.
    """

    def __init__(self, item: Any, where: str) -> None:
        self.where = where
        if not isinstance(item, Mapping):
            raise self.error(f"expected a JSON object, found {kind_of(item)}")
        if isinstance(item, RepeatedNames):
            raise self.error(f"gives {shown(item.repeated)} twice; keep one")
        self.values = item
        self._read: set[str] = set()
        self._nested: dict[str, list[Fields]] = {}

    def error(self, problem: str) -> RequestError:
        """The error to raise for a problem of this record."""
        return RequestError(f"{self.where}: {problem}")

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def ignore(self, *names: str) -> None:
        """Mark fields as read that have no use here and are known to be harmless."""
        self._read.update(names)

    def unread(self) -> Iterator[str]:
        """Names of the fields that were never read, nested ones with a dot."""
        for name in self.values:
            if name in self._nested:
                inner = {unread for fields in self._nested[name] for unread in fields.unread()}
                yield from (f"{name}.{unread}" for unread in sorted(inner))
            elif name not in self._read:
                yield str(name)

    def nested(self, name: str) -> Fields:
        """The fields of a required object."""
        inner = Fields(self._required(name), f"{self.where}, {name}")
        self._nested[name] = [inner]
        return inner

    def entries(self, name: str) -> list[Fields]:
        """The fields of each object in a list, which may be missing or empty."""
        value = self.values.get(name) or []
        if not isinstance(value, list | tuple):
            raise self.error(f"{name!r} must be a list of objects, found {kind_of(value)}")
        inner = [Fields(item, f"{self.where}, {name} {index}") for index, item in enumerate(value)]
        self._nested[name] = inner
        return inner

    def integer(self, *names: str, default: int) -> int:
        """A whole number, under the first of the names that is present."""
        name = next((name for name in names if name in self), names[0])
        self._read.update(names)
        value = self.values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(
                f"{name!r} must be a whole number, found {shown(value)}; without it, records are "
                "numbered"
            )
        if not -_LARGEST_ID <= value < _LARGEST_ID:
            raise self.error(f"{name!r} must be a whole number of at most 18 digits")
        return value

    def text(self, *names: str) -> str:
        """A required text, under one of several names.

        Raises:
            RequestError: when it is missing, empty or malformed, or two names give different texts.
        """
        found = {name: self._text(name) for name in names if name in self}
        self._read.update(names)
        if not found:
            return self._text(names[0])
        name = next(iter(found))
        for other, value in found.items():
            if value.strip() != found[name].strip():
                raise self.error(f"gives both {name!r} and {other!r}, and they differ; keep one")
        return found[name]

    def optional_text(self, *names: str) -> str | None:
        """A text under one of several names, or ``None``."""
        present = [name for name in names if name in self]
        self._read.update(names)
        return self.text(*present) if present else None

    def texts(self, *names: str) -> tuple[str, ...]:
        """All texts under several names; each is a text or a list of them, perhaps empty."""
        found: list[str] = []
        for name in names:
            self._read.add(name)
            value = self.values.get(name) or ()
            if isinstance(value, str):
                value = [value]
            if not isinstance(value, Sequence):
                raise self.error(f"{name!r} must be a text or a list of texts")
            if any(not isinstance(text, str) or not text.strip() for text in value):
                raise self.error(f"{name!r} has an entry that is not a text, or is empty")
            found += [checked_text(text, name, self) for text in value]
        return tuple(found)

    def leaves(self, name: str) -> tuple[str, ...]:
        """All texts of a field that nests them in lists, such as answers and their aliases."""
        self._read.add(name)
        return tuple(checked_text(text, name, self) for text in _leaves(self.values.get(name)))

    def take(self, name: str) -> Any:
        """A field's value, unchecked."""
        self._read.add(name)
        return self.values.get(name)

    def _required(self, name: str) -> Any:
        if name not in self.values:
            raise self.error(f"the field {name!r} is missing")
        return self.values[name]

    def _text(self, name: str) -> str:
        self._read.add(name)
        value = self._required(name)
        if not isinstance(value, str):
            remedy = "put it in quotes" if isinstance(value, int | float) else "give one text"
            raise self.error(f"{name!r} must be a text, found {kind_of(value)}; {remedy}")
        if not value.strip():
            raise self.error(f"{name!r} is empty; fill it in")
        return checked_text(value, name, self)


def kind_of(value: object) -> str:
    """The kind of a decoded value, in JSON's terms."""
    if value is None:
        return "null"
    kinds = ((bool, "true or false"), (str, "a text"), (int | float, "a number"))
    more = ((Mapping, "an object"), (Sequence, "a list"))
    return next(
        (name for kind, name in (*kinds, *more) if isinstance(value, kind)), type(value).__name__
    )


def checked_text(text: str, name: str, fields: Fields) -> str:
    """The text, if it can be tokenised.

    Raises:
        RequestError: when it has half a character or a NUL character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise fields.error(
            f"{name!r} has half a character at position {error.start} (a lone surrogate, as of an "
            "emoji cut in two); write the whole character"
        ) from None
    if "\x00" in text:
        raise fields.error(f"{name!r} has a NUL character; remove it")
    return text


def _leaves(value: Any) -> Iterator[str]:
    """The texts in nested lists that are not blank; numbers count as texts."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)

"""Headers of all messages, and how to read them from untrusted sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from collabedit._version import __version__
from collabedit.errors import CollabEditError, one_line, shown
from collabedit.files import utc_now

__all__ = ["Header", "ModelHeader", "parse_header"]


class Header(BaseModel):
    """Fields that every message carries; subclasses set ``format`` and ``version``.

    Attributes:
        format: kind of the message.
        version: of that format.
        created: UTC time.
        collabedit: version that wrote it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: Earlier formats that can still be read: by name and version, a map from old names to new
    #: ones.
    earlier: ClassVar[Mapping[tuple[str, int], Mapping[str, str]]] = {}

    format: str
    version: int
    created: str = Field(default_factory=utc_now)
    collabedit: str = __version__


class ModelHeader(Header):
    """A header of a message about edited weights.

    Attributes:
        model: the name that its author uses for the model.
        model_sha256: SHA-256 of each edited weight of the unedited model, by the weight's name.
    """

    model: str
    model_sha256: dict[str, str]


Kind = TypeVar("Kind", bound=Header)


def parse_header(
    kind: type[Kind], values: Mapping[str, Any], source: str, error_type: type[CollabEditError]
) -> Kind:
    """Check a message's header.

    Args:
        kind: the expected header.
        values: the fields as read.
        source: name of the message in errors, such as its path.
        error_type: what to raise.

    Raises:
        CollabEditError: of the given type, naming the source and the field.
    """
    expected = kind.model_fields["format"].default, kind.model_fields["version"].default
    found = values.get("format"), values.get("version")
    known: dict[tuple[str, int], Mapping[str, str]] = {expected: {}, **kind.earlier}
    renamed = next((names for format_, names in known.items() if format_ == found), None)
    if renamed is None:
        raise error_type(f"{source}: {_unknown(found, expected, kind)}")
    current = {renamed.get(name, name): value for name, value in values.items()}
    current["format"], current["version"] = expected
    try:
        return kind.model_validate(current)
    except ValidationError as error:
        raise error_type(f"{source}: {one_line(error)}") from None


def _unknown(found: tuple[Any, Any], expected: tuple[str, int], kind: type[Header]) -> str:
    if found[0] in (expected[0], *(name for name, _ in kind.earlier)):  # it may be unhashable
        return (
            f"version {shown(found[1])} of {found[0]} is not known to collabedit {__version__}; "
            "upgrade collabedit"
        )
    name = "not given" if found[0] is None else shown(found[0])
    return f"not a {expected[0]} file (its format is {name})"

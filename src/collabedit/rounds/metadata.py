"""What all files of a round say about themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from collabedit import __version__
from collabedit.editing.hyperparameters import one_line
from collabedit.errors import CollabEditError
from collabedit.files import utc_now

__all__ = ["FileMetadata", "parse_metadata"]


class FileMetadata(BaseModel):
    """Fields that every file of a round carries.

    Attributes:
        model: what its maker called the model.
        model_sha256: SHA-256 of each edited weight of the unedited model, by the weight's name.
        created: UTC time.
        collabedit: version that wrote the file.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    model_sha256: dict[str, str]
    created: str = Field(default_factory=utc_now)
    collabedit: str = __version__


Metadata = TypeVar("Metadata", bound=BaseModel)


def parse_metadata(
    kind: type[Metadata],
    values: Mapping[str, Any],
    expected_format: str,
    path: Path,
    error_type: type[CollabEditError],
) -> Metadata:
    """Check a file's metadata.

    Raises:
        CollabEditError: of the given type, naming the file and the field.
    """
    if values.get("format") != expected_format:
        raise error_type(
            f"{path}: not a {expected_format} file "
            f"(its format is {values.get('format', 'not given')!r})"
        )
    if values.get("version") != 1:
        raise error_type(
            f"{path}: version {values.get('version')} of {expected_format} is not known to "
            f"collabedit {__version__}; upgrade collabedit"
        )
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise error_type(f"{path}: {one_line(error)}") from None

"""Defaults of options: defined in the settings, where the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["default_of"]


@dataclass(frozen=True)
class _Default:
    """A default that is read when used or shown, so that start-up does not load pydantic."""

    settings: str
    field: str

    def __call__(self) -> Any:
        from collabedit import settings

        fields = getattr(settings, self.settings).model_fields
        return _as_typed(fields[self.field].default)

    def __str__(self) -> str:
        return str(self()).replace(",", ", ")  # so that lists break into lines

    def __bool__(self) -> bool:
        return bool(self())


def default_of(field: str, settings: str = "StudySettings") -> Any:
    """The default of an option: that of a settings field, as a user would type it.

    Args:
        field: its name.
        settings: name of the class in :mod:`collabedit.settings`.
    """
    return _Default(settings, field)


def _as_typed(value: Any) -> Any:
    if isinstance(value, tuple):
        return ",".join(str(_as_typed(each)) for each in value)
    return value.value if isinstance(value, Enum) else value

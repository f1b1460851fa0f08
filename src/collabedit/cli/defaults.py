"""Option defaults: the settings define them, and the command line reads them from there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["default_of"]


@dataclass(frozen=True)
class _Default:
    """A default that is read only when used or shown, so that start-up does not load pydantic."""

    settings: str
    field: str

    def __call__(self) -> Any:
        from collabedit import settings

        fields = getattr(settings, self.settings).model_fields
        return _as_typed(fields[self.field].default)

    def __str__(self) -> str:
        return str(self()).replace(",", ", ")  # so that long lists can wrap

    def __bool__(self) -> bool:
        return bool(self())


def default_of(field: str, settings: str = "StudySettings") -> Any:
    """An option's default, which is that of a settings field, as a user would type it.

    Args:
        field: name of the field.
        settings: name of its class in :mod:`collabedit.settings`.
    """
    return _Default(settings, field)


def _as_typed(value: Any) -> Any:
    if isinstance(value, tuple):
        return ",".join(str(_as_typed(item)) for item in value)
    return value.value if isinstance(value, Enum) else value

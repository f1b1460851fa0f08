"""How residuals reach the edited layers."""

from __future__ import annotations

from enum import Enum

from collabedit.names import enum_member

__all__ = ["Schedule", "parse_schedule"]


class Schedule(str, Enum):
    """How residuals reach the layers."""

    LAYERWISE = "layerwise"
    """Layer by layer; the residual is measured again after the lower ones changed (MEMIT)."""

    ONE_SHOT = "one-shot"
    """Every layer from the unedited model; one exchange in all (the paper's code)."""

    @classmethod
    def _missing_(cls, value: object) -> Schedule | None:
        """The name in files of version 1, which the command line still accepts."""
        return cls.LAYERWISE if value == "sequential" else None


def parse_schedule(name: str) -> Schedule:
    """A schedule from its name; ``sequential`` is another name of ``layerwise``.

    Raises:
        UnknownNameError: when there is none with that name.
    """
    return enum_member(Schedule, name, "schedule")

"""Settings of tuning, with their defaults."""

from __future__ import annotations

from pydantic import Field, field_validator

from collabedit.editors import DEFAULT_EDITOR, Schedule, resolve_editor
from collabedit.settings.common import RunSettings

__all__ = ["TuneSettings"]


class TuneSettings(RunSettings):
    """Settings of tuning.

    Attributes:
        editor: name of the editor.
        schedule: how residuals reach the layers.
        records: number of records edited and evaluated in every trial.
        facts: number of known facts to trace.
        draws: draws of the noise for each fact.
        trials: settings of targets (layers, clamp, steps) to try, each with several weights of
            the prior; 0 ends after the causal tracing.
    """

    editor: str = DEFAULT_EDITOR
    schedule: Schedule = Schedule.LAYERWISE
    records: int = Field(default=24, ge=1)
    facts: int = Field(default=24, ge=1)
    draws: int = Field(default=3, ge=1)
    trials: int = Field(default=8, ge=0)

    @field_validator("editor")
    @classmethod
    def _known_editor(cls, name: str) -> str:
        return resolve_editor(name).name

"""What tuning depends on, with the defaults."""

from __future__ import annotations

from pydantic import Field, field_validator

from collabedit.editors import DEFAULT_EDITOR, Schedule, resolve_editor
from collabedit.settings.common import RunSettings

__all__ = ["TuneSettings"]


class TuneSettings(RunSettings):
    """What tuning depends on.

    Attributes:
        editor: name of the editor.
        schedule: how residuals reach the layers.
        records: of the data set, edited and measured in every trial.
        facts: that the model knows, traced.
        draws: of the noise, for each of them.
        trials: kinds of targets (layers, clamp, steps) to try, each with several weights of the
            prior; 0 ends with the causal tracing.
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

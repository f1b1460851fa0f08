"""Settings of each study, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from collabedit.editors import Schedule, editors, resolve_editor
from collabedit.errors import RoundError, UnknownNameError
from collabedit.settings.common import Beta, CommonSettings, StudySettings

if TYPE_CHECKING:
    from collabedit.messages import RoundConfig

__all__ = [
    "MODES",
    "AugmentationSettings",
    "ConflictSettings",
    "EditorsSettings",
    "ForgettingSettings",
    "MultiRoundSettings",
    "OverlapSettings",
    "SingleRoundSettings",
]


class SingleRoundSettings(StudySettings):
    """Settings of a single-round run.

    Attributes:
        secure_aggregation: merge under secure aggregation, all parties in this process.
    """

    secure_aggregation: bool = False

    @model_validator(mode="after")
    def _sums_suffice(self) -> SingleRoundSettings:
        from collabedit.merging import Merges, resolve_method

        hidden = [n for n in self.merge if resolve_method(n).merges is Merges.UPDATES]
        if self.secure_aggregation and hidden:
            raise ValueError(
                f"{', '.join(hidden)} need each party's own update, which secure aggregation "
                "hides; use --merge CollabEdit,GLOBAL"
            )
        return self


class MultiRoundSettings(StudySettings):
    """Settings of a multi-round run.

    Attributes:
        rounds: number of rounds; each has its own records.
        beta: weights of the finished rounds' keys in the prior, each giving a separate trajectory
            for the methods that pool statistics; zero is the static covariance. By default, the
            editor's own.
        measure: rounds after which the edits are measured, besides the last one; all by default.
        sample: how many records of each round are measured, chosen by the seed; all by default.
        tasks: downstream tasks that are measured as well, as ``collabedit evaluate`` takes them.
    """

    rounds: int = Field(default=5, ge=1)
    beta: tuple[Beta, ...] | None = Field(default=None, min_length=1)
    measure: tuple[int, ...] | None = None
    sample: int | None = Field(default=None, ge=1)
    tasks: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _measures_rounds_that_exist(self) -> Self:
        beyond = [number for number in self.measure or () if not 1 <= number <= self.rounds]
        if beyond:
            raise ValueError(f"measure: there is no round {beyond[0]} of {self.rounds}")
        return self

    @property
    def measured(self) -> tuple[int, ...]:
        """The numbers of the rounds after which the edits are measured."""
        every = range(1, self.rounds + 1)
        return tuple(every) if self.measure is None else tuple(sorted({*self.measure, self.rounds}))

    @property
    def betas(self) -> tuple[float, ...]:
        """The given weights, or the editor's own."""
        return (resolve_editor(self.editor).beta,) if self.beta is None else self.beta


class ForgettingSettings(StudySettings):
    """Settings of a forgetting run.

    ``parties`` and ``edits_per_party`` define the target set.

    Attributes:
        further: number of edits made after the target set.
        batch: how many of them are made at a time; the paper takes one.
        beta: weights of the earlier keys in the prior, each giving a curve; zero is the static
            covariance. By default, zero and the editor's own.
        measure_every: batches between two measurements of the target set.
    """

    merge: tuple[str, ...] = Field(default=("CollabEdit",), min_length=1)
    further: int = Field(default=40, ge=1)
    batch: int = Field(default=1, ge=1)
    beta: tuple[Beta, ...] | None = Field(default=None, min_length=1)
    measure_every: int = Field(default=4, ge=1)

    @property
    def betas(self) -> tuple[float, ...]:
        """The given weights, or the static covariance and the editor's own weight."""
        return (0.0, resolve_editor(self.editor).beta) if self.beta is None else self.beta


class OverlapSettings(StudySettings):
    """Settings of an overlap run.

    All ``parties`` hold the same ``edits_per_party`` records.

    Attributes:
        rounds: how many times the same edits are made.
        copies: numbers of parties with the same edits in one round, whose effects are compared.
        skip_known: the remedy: parties skip facts that the model gives this probability per token.
        beta: weight of the keys of finished rounds in the prior.
    """

    merge: tuple[str, ...] = Field(default=("CollabEdit", "TA"), min_length=1)
    edits_per_party: int = 10
    rounds: int = Field(default=5, ge=1)
    copies: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 2, 4, 8), min_length=1)
    skip_known: float = Field(default=0.5, gt=0, le=1)
    beta: Beta = 0.0


@dataclass(frozen=True)
class Mode:
    """What is edited and what is measured: ``A``, ``B`` or ``A+B`` each."""

    edited: str
    measured: str


#: The paper's modes: A are the edits, B the conflicting ones.
MODES = {
    "whether-conflict": Mode(edited="A", measured="B"),
    "performance-a": Mode(edited="A", measured="A"),
    "performance-b": Mode(edited="A+B", measured="A"),
    "performance-a+b": Mode(edited="A+B", measured="B"),
    "single-b": Mode(edited="B", measured="B"),
}


class ConflictSettings(StudySettings):
    """Settings of a conflict run.

    ``parties`` parties hold the edits A; as many others hold B, the same questions with other
    answers.

    Attributes:
        conflicts: a file of B; made from the data set's objects by default.
        modes: names of :data:`MODES`.
    """

    merge: tuple[str, ...] = Field(default=("CollabEdit",), min_length=1, max_length=1)
    conflicts: str | None = None
    modes: tuple[str, ...] = Field(default=tuple(MODES), min_length=1)

    @field_validator("modes")
    @classmethod
    def _known_modes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in MODES:
                raise UnknownNameError("conflict mode", name, MODES)
        return names


class AugmentationSettings(StudySettings):
    """Settings of an augmentation run.

    Attributes:
        wordings: a file of other prompts by relation id; every second one is used to augment, the
            others to measure.
        augment_objects: whether further true objects are edited in the last round.
        augment_prompts: whether the preferred object is also edited under other wordings.
        beta: weight of the keys of finished rounds in the prior; the paper uses zero, and
            higher values preserve the conflicting answer as well.
    """

    merge: tuple[str, ...] = Field(default=("CollabEdit",), min_length=1, max_length=1)
    wordings: Path | None = None
    augment_objects: bool = True
    augment_prompts: bool = True
    beta: Beta = 0.0


class EditorsSettings(CommonSettings):
    """Settings of a comparison of editors.

    Attributes:
        editors: names of the editors.
        schedules: how residuals reach the layers.
    """

    merge: tuple[str, ...] = Field(
        default=("GLOBAL", "CollabEdit", "SA", "TA", "TIES"), min_length=1
    )
    editors: tuple[str, ...] = Field(default=tuple(e.name for e in editors()), min_length=1)
    schedules: tuple[Schedule, ...] = Field(default=tuple(Schedule), min_length=1)

    @field_validator("editors")
    @classmethod
    def _known_editors(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(resolve_editor(name).name for name in names))

    @field_validator("schedules")
    @classmethod
    def _each_once(cls, schedules: tuple[Schedule, ...]) -> tuple[Schedule, ...]:
        return tuple(dict.fromkeys(schedules))

    @model_validator(mode="after")
    def _editable(self) -> EditorsSettings:
        for name in self.editors:
            if self.hyperparameters is not None:
                resolve_editor(name).check(self.hyperparameters)
            if not self.methods(name):
                raise RoundError(
                    f"{name} has no statistics for {', '.join(self.merge)} to merge; compare "
                    "another method as well, or leave it out of the editors"
                )
        return self

    def methods(self, editor: str) -> tuple[str, ...]:
        """The merge methods that work with an editor."""
        from collabedit.merging import resolve_method
        from collabedit.rounds import gives_statistics

        rules = resolve_editor(editor)
        return tuple(name for name in self.merge if gives_statistics(rules, resolve_method(name)))

    def single_round(self, config: RoundConfig) -> SingleRoundSettings:
        """The settings of one editor's single round in the comparison."""
        common = {name: getattr(self, name) for name in CommonSettings.model_fields}
        specific = {
            "merge": self.methods(config.editor),
            "editor": config.editor,
            "schedule": config.schedule,
        }
        return SingleRoundSettings(**{**common, **specific})

"""Settings common to all runs and studies, with their defaults."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from collabedit.editors import DEFAULT_EDITOR, Hyperparameters, Schedule, resolve_editor
from collabedit.errors import InputError, one_line

if TYPE_CHECKING:
    from collabedit.merging import AfterMergeStep
    from collabedit.workers import ModelSource

__all__ = ["Beta", "CommonSettings", "RunSettings", "StudySettings"]

#: Merge methods that are compared by default.
DEFAULT_METHODS = ("CollabEdit", "GLOBAL", "SA", "TA", "TIES")

#: Weight of earlier rounds' keys in the prior.
Beta = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Settings = TypeVar("Settings", bound="RunSettings")


class RunSettings(BaseModel):
    """Settings of every run.

    Attributes:
        model: what to load.
        dataset: a data set's name or a file of records.
        seed: for the choice of records, the contexts and all sampling.
        hyperparameters: settings; the model's preset by default.
        covariance: file of the second moments; ``None`` collects them on the model's own text.
        dtype: type of the weights.
        device: where to compute; by default, the GPU if there is one.
        trust_remote_code: run Python code that ships with the model.
        memory_budget: bytes beyond the model's weights that one stage may take.
        conversations: edit for conversations as well, as ``collabedit edit`` does; by default, in
            the contexts of the papers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "smollm2-135m"
    dataset: str = "worldfacts"
    seed: int = 0
    hyperparameters: Hyperparameters | None = None
    covariance: Path | None = None
    dtype: str = "float32"
    device: str | None = None
    trust_remote_code: bool = False
    memory_budget: int | None = Field(default=None, ge=1)
    conversations: bool = False

    @classmethod
    def checked(cls: type[Settings], **values: Any) -> Settings:
        """Settings from what a user typed.

        Raises:
            InputError: when a value is out of range.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise InputError(f"settings: {one_line(error)}") from None

    @property
    def source(self) -> ModelSource:
        """What the model is loaded from."""
        from collabedit.workers import ModelSource

        return ModelSource(
            self.model, self.dtype, self.device, self.memory_budget, self.trust_remote_code
        )


class CommonSettings(RunSettings):
    """Settings of every study, whatever the editor.

    Attributes:
        parties: number of parties.
        edits_per_party: edits of each party: one number for all, or one per party.
        shared: how many of each party's edits all parties hold.
        limit: use only this many records from the start of the data set; all by default.
        merge: names of the methods to compare.
        after_merge: steps applied to every merged change, including GLOBAL's, in order
            (:class:`collabedit.merging.AfterMergeStep`).
        partition: ``iid`` or ``relation``.
        heldout: a text file whose perplexity is measured.
        answers: number of records, chosen at random, for which the model's written answers are
            measured as well; 0 for none.
        generations: measure the answers for all records, and the fluency and consistency of
            longer texts, which takes longer than all other measures.
        judge: address of an OpenAI-compatible server that grades the answers; none by default.
        judge_model: the judge's name on that server.
    """

    parties: int = Field(default=4, ge=1)
    edits_per_party: int | tuple[int, ...] = 8
    shared: int = Field(default=0, ge=0)
    limit: int | None = Field(default=None, ge=1)
    merge: tuple[str, ...] = Field(default=DEFAULT_METHODS, min_length=1)
    after_merge: tuple[Any, ...] = ()
    partition: str = "iid"
    heldout: Path | None = None
    answers: int = Field(default=16, ge=0)
    generations: bool = False
    judge: str | None = None
    judge_model: str = "default"

    @field_validator("merge")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from collabedit.merging import resolve_method

        return tuple(dict.fromkeys(resolve_method(name).name for name in names))

    @field_validator("after_merge", mode="before")
    @classmethod
    def _known_steps(cls, steps: Iterable[Any]) -> tuple[AfterMergeStep, ...]:
        from collabedit.merging import AfterMergeStep

        return tuple(AfterMergeStep.model_validate(step).checked() for step in steps)

    @property
    def asks_for_answers(self) -> bool:
        """Whether the answers that the model writes are measured, for any records."""
        return self.generations or self.answers > 0


class StudySettings(CommonSettings):
    """Settings of a study with one editor.

    Attributes:
        editor: name of the editor.
        schedule: how residuals reach the layers.
    """

    editor: str = DEFAULT_EDITOR
    schedule: Schedule = Schedule.LAYERWISE

    @field_validator("editor")
    @classmethod
    def _known_editor(cls, name: str) -> str:
        return resolve_editor(name).name

    @model_validator(mode="after")
    def _mergeable(self) -> StudySettings:
        from collabedit.merging import resolve_method
        from collabedit.rounds import require_statistics

        for name in self.merge:
            require_statistics(resolve_editor(self.editor), resolve_method(name))
        return self

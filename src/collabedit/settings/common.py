"""What every run and every study depends on, with the defaults."""

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

#: Merge methods that are compared where none are named.
DEFAULT_METHODS = ("CollabEdit", "GLOBAL", "SA", "TA", "TIES")

#: Weight of earlier rounds' keys in the prior.
Beta = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Settings = TypeVar("Settings", bound="RunSettings")


class RunSettings(BaseModel):
    """What every run depends on.

    Attributes:
        model: what to load.
        dataset: a data set's name or a file of records.
        seed: of the choice of records, the contexts and all sampling.
        hyperparameters: settings; the model's preset where not given.
        covariance: file of the second moments; ``None`` collects them on text of the model's own.
        dtype: type of the weights.
        device: where to compute; the GPU where there is one by default.
        trust_remote_code: run Python code that comes with the model.
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
    """What every study depends on, whatever edits the model.

    Attributes:
        parties: number of parties.
        edits_per_party: edits of each, one number for all or one a party.
        shared: how many of each party's edits all parties hold.
        limit: deal only the first so many records of the data set; all of them where not given.
        merge: names of the methods to compare.
        after_merge: what is done to every merged change, GLOBAL's too, in this order
            (:class:`collabedit.merging.AfterMergeStep`).
        partition: ``iid`` or ``relation``.
        heldout: a text file whose perplexity is measured.
        answers: records, chosen at random, that the model is asked for, so that what it writes is
            measured as well; 0 for none.
        generations: whether all records are asked for, and the fluency and consistency of longer
            texts measured, which takes longer than all other measures.
        judge: address of an OpenAI-compatible server that grades the answers; nobody by default.
        judge_model: the judge's name there.
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


class StudySettings(CommonSettings):
    """What a study with one editor depends on.

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

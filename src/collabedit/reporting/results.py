"""Results of finished runs: one model per study, which writes and reads ``summary.json``.

The models are a union discriminated by ``experiment``. Metrics are mappings by the keys of
registered metrics (:mod:`collabedit.evaluation.metrics`); unregistered keys are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from collabedit.errors import InputError, one_line
from collabedit.evaluation import summarise
from collabedit.files import StrPath, read_json, write_json
from collabedit.reporting.case_files import UNEDITED, case_paths, measured_cases
from collabedit.reporting.table import Row

__all__ = [
    "AnyResult",
    "AugmentationResult",
    "Case",
    "CausalTrace",
    "ConflictResult",
    "Costs",
    "EarlyWarning",
    "EditorPart",
    "EditorsResult",
    "ForgettingResult",
    "MethodsResult",
    "Metrics",
    "MultiRoundResult",
    "OverlapResult",
    "PapersResult",
    "RepeatedRound",
    "RunResult",
    "SingleRoundResult",
    "StageCost",
    "Trial",
    "TuneResult",
]

#: Measurements by the keys of metrics.
Metrics = dict[str, int | float]

#: By weight name, ``|R|`` (Frobenius) of all parties' residuals; ``None`` if only sums arrived.
ResidualNorms = dict[str, float | None]

DISTANCE = "distance_from_global"

Result = TypeVar("Result", bound="RunResult")


class _Part(BaseModel):
    """Part of a summary. Fields added by newer versions are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class _Measured(BaseModel):
    """Part of a summary with metrics beside its own fields."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, int | float]

    @property
    def metrics(self) -> Metrics:
        """Measurements by the keys of metrics."""
        return dict(self.__pydantic_extra__)


class Case(_Part):
    """One record's results, ``case_<id>.json``.

    A block holds what was measured for the record on one model
    (:class:`collabedit.evaluation.CaseResult`). Blocks of studies that measure other things are
    kept under their names.

    Attributes:
        case_id: the record's id.
        requested_rewrite: what was edited.
        pre: the block of the unedited model.
        post: the block of the first method.
        methods: the blocks of all methods.
        conflicting: the record with the other answer to the same question.
    """

    case_id: int
    requested_rewrite: dict[str, Any] = {}
    pre: dict[str, Any] | None = None
    post: dict[str, Any] | None = None
    methods: dict[str, dict[str, Any]] = {}
    conflicting: Case | None = None

    def save(self, folder: Path) -> None:
        """Write the file into a run's folder."""
        value = self.model_dump(mode="json", exclude_unset=True)
        write_json(folder / f"case_{self.case_id}.json", value)

    @classmethod
    def load(cls, case_id: int, path: Path) -> Case:
        """Read a file; some studies name the record only in the file's name.

        Raises:
            InputError: when it is not such a file.
        """
        value = read_json(path, "result file")
        try:
            return cls.model_validate({"case_id": case_id, **value})
        except (ValidationError, TypeError) as error:
            why = one_line(error) if isinstance(error, ValidationError) else "expected an object"
            raise InputError(f"{path}: {why}") from None


class StageCost(_Part):
    """The cost of a stage of a run.

    Attributes:
        seconds: wall-clock time.
        bytes: size of its outcome on disk.
    """

    seconds: float
    bytes: int


class Costs(_Part):
    """The costs of a run, ``costs.json``; measured, so they differ from run to run.

    Attributes:
        stages: costs by stage name, in the order in which the stages finished.
    """

    stages: dict[str, StageCost] = {}

    @classmethod
    def load(cls, folder: Path) -> Costs:
        """Read a run's costs; empty if nothing was measured.

        Raises:
            InputError: when the file cannot be read.
        """
        path = folder / "costs.json"
        if not path.is_file():
            return cls()
        try:
            return cls.model_validate(read_json(path, "costs"))
        except ValidationError as error:
            raise InputError(f"{path}: {one_line(error)}") from None

    def save(self, folder: Path) -> None:
        """Write the file into a run's folder."""
        write_json(folder / "costs.json", self.model_dump(mode="json"))


class RunResult(_Part):
    """The results of a finished run.

    Attributes:
        experiment: name of the study.
        unedited: metrics of the unedited model, if it was measured.
        settings: the study's settings, as JSON values.
        versions: versions of the packages that computed it.
        cases: the records' results, if they were read; stored in separate files.
        costs: the run's costs; stored in a separate file.
        files: the run's files besides ``summary.json`` and ``params.json``.
    """

    files: ClassVar[tuple[str, ...]] = ("case_<id>.json",)

    experiment: str
    unedited: Metrics | None = None
    settings: dict[str, Any] = {}
    versions: dict[str, str] = {}
    cases: Sequence[Case] = Field(default=(), exclude=True)
    costs: Costs = Field(default=Costs(), exclude=True)

    @classmethod
    def load(cls: type[Result], folder: StrPath, *, with_cases: bool = False) -> Result:
        """Read a finished run, or a folder of result files of ROME, MEMIT or CollabEdit.

        Args:
            folder: such as ``results/MEMIT/run_000``.
            with_cases: read the records' results too.

        Raises:
            InputError: when the folder is not a run of this study, the run is not finished, or a
                file cannot be read.
        """
        folder = Path(folder)
        path = folder / "summary.json"
        if path.is_file():
            result: RunResult = _parse(read_json(path, "summary"), path)
        else:
            result = PapersResult.of_files(folder)
        if not isinstance(result, cls):
            raise InputError(f"{folder}: a run of {result.experiment}, not a {cls.__name__}")
        cases = [Case.load(*named) for named in case_paths(folder)] if with_cases else []
        return result.model_copy(update={"cases": cases, "costs": Costs.load(folder)})

    @classmethod
    def of(cls: type[Result], summary: Mapping[str, Any], path: StrPath = "summary") -> Result:
        """The result that a summary describes.

        Raises:
            InputError: when it is not a summary of this study.
        """
        result = _parse(summary, Path(path))
        if not isinstance(result, cls):
            raise InputError(f"{path}: a run of {result.experiment}, not a {cls.__name__}")
        return result

    def save(self, folder: StrPath) -> None:
        """Write the records' files and then the summary, which marks the run as finished.

        Raises:
            InputError: when a file cannot be written.
        """
        for case in self.cases:
            case.save(Path(folder))
        write_json(Path(folder) / "summary.json", self.summary())

    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``: all known values, as JSON values."""
        known = self.model_dump(mode="json", exclude_unset=True)
        return {"experiment": self.experiment, **known}

    def rows(self) -> list[Row]:
        """Measurements, one row per model, the unedited one first; for CSV."""
        return [] if self.unedited is None else [{"method": UNEDITED, **self.unedited}]


class MethodsResult(RunResult):
    """The results of a run that compares edited models.

    Attributes:
        methods: metrics of each edited model.
        delta_relative_to_global: by method, the largest over layers of
            ``|D - D_GLOBAL| / |D_GLOBAL|``.
        residual_norms: by method, ``|R|`` (Frobenius) of all parties' residuals by weight name, in
            the last round if there are several; absent for methods that merge finished updates.
    """

    methods: dict[str, Metrics]
    delta_relative_to_global: dict[str, float] = {}
    residual_norms: dict[str, ResidualNorms] = {}

    def rows(self) -> list[Row]:
        """One row per method, the unedited model first, with the distance from GLOBAL's update."""
        distances = self.delta_relative_to_global
        return [*super().rows(), *_method_rows(self.methods, distances)]


def _method_rows(methods: Mapping[str, Metrics], distances: Mapping[str, float]) -> list[Row]:
    return [
        {
            "method": name,
            **measured,
            **({DISTANCE: distances[name]} if name in distances else {}),
        }
        for name, measured in methods.items()
    ]


class SingleRoundResult(MethodsResult):
    """One round merged by each method."""

    experiment: Literal["single-round"] = "single-round"


class EarlyWarning(_Part):
    """A measure that left its range after a round.

    Attributes:
        round: the round after which it did, counted from 1.
        measure: ``change``, the round's change relative to the unedited weight; ``total``, all
            changes likewise; ``perplexity`` of the held-out text; or ``first_score``, the Score of
            the first round's edits.
        value: its value.
        limit: the end of its range.
        message: what happened and what to do, in one line.
    """

    round: int
    measure: Literal["change", "total", "perplexity", "first_score"]
    value: float
    limit: float
    message: str


class MultiRoundResult(MethodsResult):
    """Several rounds by each method.

    Attributes:
        delta_relative_to_global_by_round: by method and round, along each method's own trajectory.
        distance_from_pooled_by_round: by method and round, the distance from the pooled edit of
            the same targets on the same model; ``None`` if nobody took part.
        measured_after: the numbers of the rounds after which edits were measured; every round if
            the list is empty.
        rounds: by method and measured round, the metrics of the edits of every round so far.
        perplexity_by_round: by method and measured round, ``None`` without a held-out text.
        tasks: by method and measured round, and once for ``unedited``, the metrics of downstream
            tasks.
        warnings: by method, what left its range, if anything did.
    """

    experiment: Literal["multi-round"] = "multi-round"
    delta_relative_to_global_by_round: dict[str, list[float]] = {}
    distance_from_pooled_by_round: dict[str, list[float | None]] = {}
    measured_after: list[int] = []
    rounds: dict[str, list[list[Metrics]]]
    perplexity_by_round: dict[str, list[float | None]] = {}
    tasks: dict[str, list[dict[str, dict[str, float]]]] = {}
    warnings: dict[str, list[EarlyWarning]] = {}

    @property
    def measured(self) -> list[int]:
        """The numbers of the rounds after which edits were measured."""
        return self.measured_after or list(range(1, 1 + max(map(len, self.rounds.values()))))


class ForgettingResult(MethodsResult):
    """How much of a first set of edits survives further ones.

    Attributes:
        curves: by method, metrics of the first set after ``further_edits``.
    """

    experiment: Literal["forgetting"] = "forgetting"
    curves: dict[str, list[Metrics]]


class RepeatedRound(_Measured):
    """One of several rounds of the same edits, with metrics.

    Attributes:
        edits: number of edits made.
        skipped: number of edits that parties left out because the model knew them.
        residual_norms: empty if nobody took part.
        distance_from_pooled: distance from the pooled edit on the same model, if it was requested.
    """

    edits: int
    skipped: int
    residual_norms: ResidualNorms
    distance_from_pooled: float | None = None


class OverlapResult(MethodsResult):
    """The same edits from several parties.

    Attributes:
        repeated: by method, over rounds.
        copies: by method, metrics with the number of ``copies`` in one round.
    """

    experiment: Literal["overlap"] = "overlap"
    repeated: dict[str, list[RepeatedRound]]
    copies: dict[str, list[Metrics]]


class ConflictResult(MethodsResult):
    """Conflicting edits, by mode.

    Attributes:
        unedited_b: metrics of the conflicting records on the unedited model.
    """

    experiment: Literal["conflict"] = "conflict"
    unedited_b: Metrics


class AugmentationResult(MethodsResult):
    """Conflicts and their remedy, by stage."""

    experiment: Literal["augmentation"] = "augmentation"


class EditorPart(_Part):
    """One editor in one schedule.

    Attributes:
        editor: its name.
        schedule: its value, or ``either`` if it makes no difference.
        layers: the edited layers.
        run: folder of its single round, inside the comparison's.
        methods: metrics of each edited model.
        delta_relative_to_global: as in a single round.
        residual_norms: likewise.
    """

    editor: str
    schedule: str
    layers: list[int] = []
    run: str = ""
    methods: dict[str, Metrics]
    delta_relative_to_global: dict[str, float] = {}
    residual_norms: dict[str, ResidualNorms] = {}

    def rows(self) -> list[Row]:
        """One row per method."""
        names = {"editor": self.editor, "schedule": self.schedule}
        distances = self.delta_relative_to_global
        return [{**names, **row} for row in _method_rows(self.methods, distances)]


class EditorsResult(RunResult):
    """Editors side by side.

    Attributes:
        editors: one for each editor and schedule.
    """

    files: ClassVar[tuple[str, ...]] = ("table.md", "EDITOR/SCHEDULE/")

    experiment: Literal["editors"] = "editors"
    editors: list[EditorPart]

    def rows(self) -> list[Row]:
        """One row per editor, schedule and method, the unedited model first."""
        unedited: list[Row] = [{"editor": "", "schedule": "", **row} for row in super().rows()]
        return [*unedited, *(row for part in self.editors for row in part.rows())]


@dataclass(frozen=True)
class CausalTrace:
    """Average indirect effects, in probability, at the subject's last token.

    Attributes:
        facts: number of facts traced.
        examined: number of records among which they were found.
        draws: of the noise, for each fact.
        noise: its standard deviation.
        window: number of consecutive layers whose MLP outputs are restored together.
        clean: mean probability of the object without noise.
        corrupted: the same with noise.
        hidden: by layer, the effect of restoring its output.
        hidden_error: standard errors of these, over facts; zeros for a single fact.
        mlp: by the window's first layer, the effect of restoring its MLP outputs.
        mlp_error: standard errors of these.
    """

    facts: int
    examined: int
    draws: int
    noise: float
    window: int
    clean: float
    corrupted: float
    hidden: list[float]
    hidden_error: list[float]
    mlp: list[float]
    mlp_error: list[float]


class Trial(_Measured):
    """Settings that were tried, with metrics.

    Attributes:
        present: whether they are the model's current ones.
        layers: the edited layers, such as ``5-9``.
        weight: weight of the prior.
        clamp_factor: clamp factor of the targets.
        target_steps: most steps of a target's search.
    """

    present: bool
    layers: str
    weight: float
    clamp_factor: float
    target_steps: int


class TuneResult(RunResult):
    """Settings for a model.

    Attributes:
        trace: which layers recall facts.
        ranges: ranges of layers to try.
        methods: the trials by name, the best first.
        preset: the best settings, if any were tried.
    """

    files: ClassVar[tuple[str, ...]] = ("report.md",)

    experiment: Literal["tune"] = "tune"
    trace: CausalTrace
    ranges: list[list[int]]
    methods: dict[str, Trial]
    preset: dict[str, Any] | None = None

    def rows(self) -> list[Row]:
        """One row per trial, the unedited model first."""
        trials = {name: trial.model_dump() for name, trial in self.methods.items()}
        return [*super().rows(), *({"method": name, **row} for name, row in trials.items())]


class PapersResult(MethodsResult):
    """A folder of result files that ROME's, MEMIT's or CollabEdit's code wrote."""

    experiment: Literal["papers"] = "papers"

    @classmethod
    def of_files(
        cls, folder: StrPath, category: str | None = None, first: int | None = None
    ) -> PapersResult:
        """Summarise result files; the arguments are those of :func:`.case_files.measured_cases`.

        Raises:
            InputError: when nothing in the folder can be summarised.
        """
        by_method = measured_cases(Path(folder), category, first)
        metrics = {name: summarise(cases) for name, cases in by_method.items()}
        unedited = metrics.pop(UNEDITED, None)
        if unedited is None:
            return cls(methods=metrics)
        return cls(unedited=unedited, methods=metrics)


#: Keys that only one study's summaries have, most specific first.
_TELLING = {
    "editors": "editors",
    "trace": "tune",
    "rounds": "multi-round",
    "curves": "forgetting",
    "repeated": "overlap",
    "unedited_b": "conflict",
    "delta_relative_to_global": "single-round",
}


def _earlier(value: Any) -> Any:
    """Add the study's name, which summaries of early versions lack."""
    if not isinstance(value, dict) or "experiment" in value:
        return value
    studies = (study for key, study in _TELLING.items() if key in value)
    return {"experiment": next(studies, "augmentation"), **value}


#: The result of any study.
AnyResult = Annotated[
    Annotated[
        SingleRoundResult
        | MultiRoundResult
        | ForgettingResult
        | OverlapResult
        | ConflictResult
        | AugmentationResult
        | EditorsResult
        | TuneResult
        | PapersResult,
        Field(discriminator="experiment"),
    ],
    BeforeValidator(_earlier),
]
_ANY: TypeAdapter[RunResult] = TypeAdapter(AnyResult)


def _parse(value: Any, path: Path) -> RunResult:
    try:
        return _ANY.validate_python(value)
    except ValidationError as error:
        raise InputError(f"{path}: {one_line(error)}") from None

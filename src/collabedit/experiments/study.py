"""What all studies share: their settings, the model and priors they work with, their measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from collabedit.algebra import Prior
from collabedit.covariance import default_covariance
from collabedit.datasets import load_dataset, partition, take
from collabedit.datasets.partition import PartitionKind
from collabedit.editing import default_contexts, sample_contexts
from collabedit.editors import DEFAULT_EDITOR, Contexts, Hyperparameters, resolve_editor
from collabedit.errors import InputError, one_line
from collabedit.evaluation import (
    CaseResult,
    OpenAIJudge,
    answer_records,
    evaluate,
    evaluate_generations,
    perplexity,
    sample_of,
    summarise,
)
from collabedit.experiments.runs import Run, open_run
from collabedit.merging import AfterMergeStep, resolve_method
from collabedit.messages import Covariance, RoundConfig, Schedule, SecureAggregation
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round, round_on
from collabedit.parties.in_process import parties_of
from collabedit.reporting.results import RunResult
from collabedit.requests import EditRequest, Record
from collabedit.rounds import require_statistics, static_priors
from collabedit.workers import ModelSource, SolvedByWorkers

__all__ = [
    "ALL_METHODS",
    "Beta",
    "CommonSettings",
    "Loaded",
    "Measured",
    "RunSettings",
    "Study",
    "StudySettings",
    "deal",
    "described",
    "different_records",
    "open_study",
    "parameters",
    "records_of",
    "requests_of",
    "summary_of",
]

ALL_METHODS = ("CollabEdit", "GLOBAL", "SA", "TA", "TIES")

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

    model: str
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
        after_merge: what is done to every merged change, GLOBAL's too, in this order.
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
    merge: tuple[str, ...] = Field(default=ALL_METHODS, min_length=1)
    after_merge: tuple[AfterMergeStep, ...] = ()
    partition: str = "iid"
    heldout: Path | None = None
    answers: int = Field(default=16, ge=0)
    generations: bool = False
    judge: str | None = None
    judge_model: str = "default"

    @field_validator("merge")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(resolve_method(name).name for name in names))

    @field_validator("after_merge")
    @classmethod
    def _known_steps(cls, steps: tuple[AfterMergeStep, ...]) -> tuple[AfterMergeStep, ...]:
        return tuple(step.checked() for step in steps)


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
        for name in self.merge:
            require_statistics(resolve_editor(self.editor), resolve_method(name))
        return self


class Measured(TypedDict):
    """What is measured of a model: every record, and the perplexity of the held-out text."""

    cases: list[CaseResult]
    perplexity: float | None


@dataclass(frozen=True)
class Loaded:
    """What rounds on one model share, whatever edits it.

    Attributes:
        settings: what was asked.
        model: the unedited model.
        covariance: the second moments of the given file, if one was given.
        heldout: the text whose perplexity is measured, if any.
        solve: finds targets on workers, if there are any.
    """

    settings: CommonSettings
    model: LanguageModel
    covariance: Covariance | None
    heldout: str | None
    solve: SolvedByWorkers | None = None
    _priors: dict[tuple[object, ...], Mapping[str, Prior]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        settings: CommonSettings,
        executor: Executor | None = None,
        model: LanguageModel | None = None,
    ) -> Loaded:
        """Load what the settings name.

        Args:
            settings: what is asked.
            executor: workers that share the work.
            model: the model, where it is loaded already.

        Raises:
            InputError: when a file cannot be read.
            ModelError: when the model cannot be loaded.
        """
        covariance = None if settings.covariance is None else Covariance.load(settings.covariance)
        heldout = None if settings.heldout is None else _read_text(settings.heldout)
        model = model or settings.source.load()
        solve = SolvedByWorkers.of(executor, settings.source, model) if executor else None
        return cls(settings, model, covariance, heldout, solve)

    def round(
        self,
        editor: str,
        schedule: Schedule,
        contexts: Contexts | None = None,
        secure_aggregation: SecureAggregation | None = None,
    ) -> RoundConfig:
        """A round of an editor; its contexts are made where they are not given."""
        make = default_contexts if self.settings.conversations else sample_contexts
        return new_round(
            self.model,
            editor=editor,
            schedule=schedule,
            hyperparameters=self.settings.hyperparameters,
            contexts=contexts or make(self.model, self.settings.seed),
            seed=self.settings.seed,
            secure_aggregation=secure_aggregation,
        )

    def covariance_for(self, config: RoundConfig) -> Covariance | None:
        """The second moments that a round's priors are made of, collected if none were given."""
        if self.covariance is None and config.rules.needs_covariance(config.hyperparameters):
            return default_covariance(self.model, config.layers, self.settings.seed)
        return self.covariance

    def priors(self, config: RoundConfig) -> Mapping[str, Prior]:
        """The static priors of a round; those made last serve the next round that has the same."""
        if not config.rules.has_statistics:
            return {}
        key = (config.rules.prior_spec(config.hyperparameters), config.weight_names)
        if key not in self._priors:
            self._priors.clear()  # they are large
            covariance = self.covariance_for(config)
            self._priors[key] = static_priors(config, covariance, self.settings.memory_budget)
        return self._priors[key]

    def measure(self, run: Run, stage: str, records: Sequence[Record]) -> Measured:
        """Measure the model as it is now; a stage that the run has finished is not computed again.

        Args:
            run: where the stage is kept.
            stage: its name.
            records: what is measured.
        """

        def compute() -> Measured:
            cases = evaluate(self.model, records)
            self._ask(cases, records)
            if self.settings.generations:
                texts = evaluate_generations(self.model, records, seed=self.settings.seed)
                for case, generated in zip(cases, texts, strict=True):
                    case.update(generated)  # type: ignore[typeddict-item]
            held_out = None if self.heldout is None else perplexity(self.model, self.heldout)
            return {"cases": cases, "perplexity": held_out}

        return run.json_stage(f"evaluation/{stage}", compute)

    def _ask(self, cases: Sequence[CaseResult], records: Sequence[Record]) -> None:
        """Add the model's own answers to the cases of a sample of records."""
        settings = self.settings
        count = None if settings.generations else settings.answers
        places = sample_of(records, count, settings.seed)
        judge = None
        if settings.judge is not None:
            judge = OpenAIJudge(settings.judge, settings.judge_model)
        chosen = [records[place] for place in places]
        for place, found in zip(
            places, answer_records(self.model, chosen, judge=judge), strict=True
        ):
            cases[place]["answers"] = found

    def study(self, settings: StudySettings, run: Run, config: RoundConfig) -> Study:
        """The study of a round whose results go to a run."""
        round_file = run.folder / "round.json"
        if round_file.is_file():
            config = RoundConfig.load(round_file)  # its deltas name it by its hash
        else:
            config.save(round_file)
        return Study(settings, run, self, config, self.priors(config))


@dataclass(frozen=True)
class Study:
    """An open study.

    Attributes:
        settings: what was asked.
        run: where its results go.
        loaded: the model and what is loaded with it.
        config: the first round on it.
        priors: the static priors ``A0`` by weight name.
    """

    settings: StudySettings
    run: Run
    loaded: Loaded
    config: RoundConfig
    priors: Mapping[str, Prior]

    @property
    def model(self) -> LanguageModel:
        """The unedited model."""
        return self.loaded.model

    def round_config(self) -> RoundConfig:
        """A round on the model as it is now, with the contexts and settings of the first one."""
        return round_on(self.config, self.model)

    def parties(
        self,
        shares: Sequence[Sequence[EditRequest]],
        config: RoundConfig | None = None,
        skip_known: float | None = None,
    ) -> list[Party]:
        """A party for each share of requests, on the model as it is now.

        Args:
            shares: each party's requests.
            config: the round; the first one by default.
            skip_known: have parties skip what the model already says with this probability per
                token; a party that skips everything has no part in the round.
        """
        chosen = config or self.config
        if skip_known is not None:
            everyone = [Party(self.model, s, chosen, skip_known=skip_known) for s in shares]
            shares = [party.requests for party in everyone if party.requests]
        return Party.together(
            self.model, shares, chosen, secure=parties_of(chosen), solve=self.loaded.solve
        )

    def measure(self, stage: str, records: Sequence[Record]) -> Measured:
        """Measure the model as it is now; a finished stage is not computed again."""
        return self.loaded.measure(self.run, stage, records)

    def finish(self, summary: Mapping[str, Any]) -> Run:
        """Write the summary, with the settings, and return the run."""
        params = self.run.params()
        asked = {name: params[name] for name in ("experiment", "settings", "versions")}
        RunResult.of({**asked, **summary}).save(self.run.folder)
        return self.run


def open_study(
    name: str,
    settings: StudySettings,
    results: Path,
    *,
    fresh: bool = False,
    executor: Executor | None = None,
    secure: Callable[[LanguageModel], SecureAggregation] | None = None,
) -> Study:
    """Load what a study needs and open its run.

    An interrupted run with the same settings is continued from its last finished stage.

    Args:
        name: of the experiment.
        settings: what to run.
        results: folder of all runs.
        fresh: begin a new run even if an unfinished one with these settings exists.
        executor: workers that share the work.
        secure: gives the round's secure aggregation, if it has any.
    """
    loaded = Loaded.of(settings, executor)
    section = None if secure is None else secure(loaded.model)
    config = loaded.round(settings.editor, settings.schedule, secure_aggregation=section)
    params = parameters(name, settings, config, loaded.covariance_for(config))
    loaded.priors(config)  # so that what it complains of leaves no run behind
    return loaded.study(settings, open_run(results, config.editor, params, fresh=fresh), config)


def parameters(
    name: str, settings: StudySettings, config: RoundConfig, covariance: Covariance | None
) -> dict[str, Any]:
    """All that the results of a study depend on, as JSON values."""
    return {
        "experiment": name,
        "settings": settings.model_dump(mode="json"),
        "round": described(config),
        "covariance": None if covariance is None else covariance.corpus,
    }


def described(config: RoundConfig) -> dict[str, Any]:
    """A round as JSON values, without the time when it was made."""
    return config.model_dump(mode="json", exclude={"created"})


def deal(settings: CommonSettings, rounds: int = 1) -> list[list[list[Record]]]:
    """Each round's share of records of each party; only what all share is dealt twice.

    Raises:
        DatasetError: when the data set cannot be had or is too small.
        InputError: when more edits are shared than a party has.
    """
    sizes, shared = settings.edits_per_party, settings.shared
    per_party = [sizes] * settings.parties if isinstance(sizes, int) else list(sizes)
    if shared >= min(per_party) and shared:
        raise InputError(f"each party must have more than the {shared} edits that all share")
    counts = [size - shared for size in per_party] + ([shared] if shared else [])
    dealt = partition(
        take(load_dataset(settings.dataset), settings.limit),
        len(counts) if shared else settings.parties,
        [count * rounds for count in counts],
        by=cast(PartitionKind, settings.partition),  # checked by the callee
        seed=settings.seed,
    )
    by_round = [
        [
            own[number * count : (number + 1) * count]
            for own, count in zip(dealt, counts, strict=True)
        ]
        for number in range(rounds)
    ]
    if not shared:
        return by_round
    return [[[*own, *common] for own in shares] for *shares, common in by_round]


def different_records(shares: Sequence[Sequence[Record]]) -> list[Record]:
    """All parties' records, those that several hold once."""
    return list(dict.fromkeys(records_of(shares)))


def records_of(shares: Sequence[Sequence[Record]]) -> list[Record]:
    """All parties' records, one after the other."""
    return [record for share in shares for record in share]


def requests_of(shares: Sequence[Sequence[Record]]) -> list[list[EditRequest]]:
    """The requests of each party's records."""
    return [[record.request for record in share] for share in shares]


def summary_of(measured: Measured) -> dict[str, Any]:
    """The metrics of what was measured."""
    summary: dict[str, Any] = dict(summarise(measured["cases"]))
    if measured["perplexity"] is not None:
        summary["perplexity"] = measured["perplexity"]
    return summary


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the held-out text {path}: {error}") from None

"""Shared by all studies: the model, the priors and the measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, cast

from collabedit.algebra import Prior
from collabedit.collaboration import Merged
from collabedit.covariance import default_covariance
from collabedit.datasets import load_dataset, partition, take
from collabedit.datasets.partition import PartitionKind
from collabedit.editing import Solve, default_contexts, sample_contexts
from collabedit.editors import Contexts
from collabedit.errors import InputError
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
from collabedit.messages import Covariance, Delta, RoundConfig, Schedule, SecureAggregation
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round, round_on
from collabedit.parties.in_process import parties_of
from collabedit.reporting.results import ResidualNorms, RunResult
from collabedit.requests import EditRequest, Record
from collabedit.rounds import static_priors
from collabedit.settings import CommonSettings, StudySettings
from collabedit.workers import ModelWorkers

__all__ = [
    "Loaded",
    "Measured",
    "Study",
    "deal",
    "described",
    "different_records",
    "known_norms",
    "open_study",
    "parameters",
    "records_of",
    "requests_of",
    "summary_of",
]


class Measured(TypedDict):
    """Measurements of a model: every record, and the perplexity of the held-out text."""

    cases: list[CaseResult]
    perplexity: float | None


@dataclass(frozen=True)
class Loaded:
    """Shared by all rounds on one model, whatever the editor.

    Attributes:
        settings: of the study.
        model: the unedited model.
        covariance: the second moments of the given file, if one was given.
        heldout: the text whose perplexity is measured, if any.
        workers: those that share the work, if there are any.
    """

    settings: CommonSettings
    model: LanguageModel
    covariance: Covariance | None
    heldout: str | None
    workers: ModelWorkers | None = None
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
            settings: of the study.
            executor: workers that share the work.
            model: the model, if it is already loaded.

        Raises:
            InputError: when a file cannot be read.
            ModelError: when the model cannot be loaded.
        """
        covariance = None if settings.covariance is None else Covariance.load(settings.covariance)
        heldout = None if settings.heldout is None else _read_text(settings.heldout)
        model = model or settings.source.load()
        workers = ModelWorkers.of(executor, settings.source, model) if executor else None
        return cls(settings, model, covariance, heldout, workers)

    @property
    def solve(self) -> Solve | None:
        """The function that finds targets on the workers, if there are any."""
        return self.workers.solve if self.workers else None

    def round(
        self,
        editor: str,
        schedule: Schedule,
        contexts: Contexts | None = None,
        secure_aggregation: SecureAggregation | None = None,
    ) -> RoundConfig:
        """A round with an editor; contexts are made unless given."""
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
        """The second moments for a round's priors, collected if none were given."""
        if self.covariance is None and config.rules.needs_covariance(config.hyperparameters):
            return default_covariance(
                self.model, config.layers, self.settings.seed, share=self.workers
            )
        return self.covariance

    def priors(self, config: RoundConfig) -> Mapping[str, Prior]:
        """The static priors of a round; the next round reuses them if it needs the same."""
        if not config.rules.has_statistics:
            return {}
        key = (config.rules.prior_spec(config.hyperparameters), config.weight_names)
        if key not in self._priors:
            self._priors.clear()  # they are large
            covariance = self.covariance_for(config)
            self._priors[key] = static_priors(config, covariance, self.settings.memory_budget)
        return self._priors[key]

    def measure(self, run: Run, stage: str, records: Sequence[Record]) -> Measured:
        """Measure the model as it is now; finished stages of the run are not repeated.

        Args:
            run: where the stage is kept.
            stage: its name.
            records: the records to measure.
        """

        def compute() -> Measured:
            workers = self.workers
            cases = evaluate(self.model, records, read=workers.read if workers else None)
            self._ask(cases, records)
            if self.settings.generations:
                texts = evaluate_generations(
                    self.model,
                    records,
                    seed=self.settings.seed,
                    sample=workers.sample if workers else None,
                )
                for case, generated in zip(cases, texts, strict=True):
                    case.update(generated)  # type: ignore[typeddict-item]
            held_out = None if self.heldout is None else perplexity(self.model, self.heldout)
            return {"cases": cases, "perplexity": held_out}

        return run.json_stage(f"evaluation/{stage}", compute)

    def _ask(self, cases: Sequence[CaseResult], records: Sequence[Record]) -> None:
        """Add the model's own answers to the cases of a sample of records."""
        settings = self.settings
        count = None if settings.generations else settings.answers
        indices = sample_of(records, count, settings.seed)
        judge = None
        if settings.judge is not None:
            judge = OpenAIJudge(settings.judge, settings.judge_model)
        decode = self.workers.decode if self.workers else None
        chosen = [records[index] for index in indices]
        answers = answer_records(self.model, chosen, judge=judge, decode=decode)
        for index, of_record in zip(indices, answers, strict=True):
            cases[index]["answers"] = of_record

    def study(self, settings: StudySettings, run: Run, config: RoundConfig) -> Study:
        """A study of a round whose results go to a run."""
        round_file = run.folder / "round.json"
        if round_file.is_file():
            config = RoundConfig.load(round_file)  # deltas refer to it by its hash
        else:
            config.save(round_file)
        return Study(settings, run, self, config, self.priors(config))


@dataclass(frozen=True)
class Study:
    """An open study.

    Attributes:
        settings: of the study.
        run: where its results go.
        loaded: the model and everything loaded with it.
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
            skip_known: have parties skip facts that the model gives this probability per
                token; a party that skips everything is not part of the round.
        """
        chosen = config or self.config
        if skip_known is not None:
            everyone = [Party(self.model, s, chosen, skip_known=skip_known) for s in shares]
            shares = [party.requests for party in everyone if party.requests]
        return Party.together(
            self.model, shares, chosen, secure=parties_of(chosen), solve=self.loaded.solve
        )

    def measure(self, stage: str, records: Sequence[Record]) -> Measured:
        """Measure the model as it is now; a finished stage is not repeated."""
        return self.loaded.measure(self.run, stage, records)

    def merged(self, name: str, compute: Callable[[], Merged]) -> Merged:
        """The delta of a merge and its residual norms: read if finished, otherwise computed.

        Args:
            name: of the stage.
            compute: does the merge.
        """
        facts = f"facts/{name}"

        def kept() -> Delta:
            merged = compute()
            norms = dict(merged.residual_norms)
            self.run.json_stage(facts, lambda: {"residual_norms": norms})
            return merged.delta

        delta = self.run.delta_stage(f"deltas/{name}", kept)
        about = self.run.json_stage(facts, dict[str, Any])  # unknown if only the delta was kept
        return Merged(delta, residual_norms=about.get("residual_norms", {}))

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
    secure: SecureAggregation | None = None,
) -> Study:
    """Load what a study needs and open its run.

    An interrupted run with the same settings is continued from its last finished stage.

    Args:
        name: of the experiment.
        settings: what to run.
        results: folder of all runs.
        fresh: start a new run even if an unfinished one with these settings exists.
        executor: workers that share the work.
        secure: the round's secure aggregation, if it has any.
    """
    loaded = Loaded.of(settings, executor)
    config = loaded.round(settings.editor, settings.schedule, secure_aggregation=secure)
    params = parameters(name, settings, config, loaded.covariance_for(config))
    loaded.priors(config)  # fail before a run is created
    return loaded.study(settings, open_run(results, config.editor, params, fresh=fresh), config)


def parameters(
    name: str, settings: StudySettings, config: RoundConfig, covariance: Covariance | None
) -> dict[str, Any]:
    """Everything that the results of a study depend on, as JSON values."""
    return {
        "experiment": name,
        "settings": settings.model_dump(mode="json"),
        "round": described(config),
        "covariance": None if covariance is None else covariance.corpus,
    }


def described(config: RoundConfig) -> dict[str, Any]:
    """A round as JSON values, without its creation time."""
    return config.model_dump(mode="json", exclude={"created"})


def deal(settings: CommonSettings, rounds: int = 1) -> list[list[list[Record]]]:
    """Each party's records in each round; only shared records are dealt more than once.

    Raises:
        DatasetError: when the data set is unavailable or too small.
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
            share[number * count : (number + 1) * count]
            for share, count in zip(dealt, counts, strict=True)
        ]
        for number in range(rounds)
    ]
    if not shared:
        return by_round
    return [[[*share, *common] for share in shares] for *shares, common in by_round]


def different_records(shares: Sequence[Sequence[Record]]) -> list[Record]:
    """All parties' records, each shared one once."""
    return list(dict.fromkeys(records_of(shares)))


def records_of(shares: Sequence[Sequence[Record]]) -> list[Record]:
    """All parties' records, party by party."""
    return [record for share in shares for record in share]


def requests_of(shares: Sequence[Sequence[Record]]) -> list[list[EditRequest]]:
    """The requests of each party's records."""
    return [[record.request for record in share] for share in shares]


def known_norms(norms: Mapping[str, ResidualNorms]) -> dict[str, ResidualNorms]:
    """Residual norms by method; methods that merge finished updates have none."""
    return {name: by_weight for name, by_weight in norms.items() if by_weight}


def summary_of(measured: Measured) -> dict[str, Any]:
    """The metrics of the measurements."""
    summary: dict[str, Any] = dict(summarise(measured["cases"]))
    if measured["perplexity"] is not None:
        summary["perplexity"] = measured["perplexity"]
    return summary


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the held-out text {path}: {error}") from None

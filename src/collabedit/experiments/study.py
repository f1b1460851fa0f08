"""What all studies share: their settings, the model and priors they work with, their measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from collabedit.covariance import Covariance, default_covariance
from collabedit.datasets import load_dataset, partition, take
from collabedit.datasets.partition import PartitionKind
from collabedit.editing import Hyperparameters, TargetCache, optimise_targets, resolve_editor
from collabedit.editing.editors import DEFAULT_EDITOR
from collabedit.editing.hyperparameters import one_line
from collabedit.errors import InputError
from collabedit.evaluation import CaseResult, evaluate, evaluate_generations, perplexity, summarise
from collabedit.experiments.runs import Run, open_run
from collabedit.merging import resolve_method
from collabedit.models import LanguageModel, load_model
from collabedit.requests import EditRequest, Record
from collabedit.rounds import Party, RoundConfig, Schedule, new_round
from collabedit.rounds.coordinator import require_statistics

__all__ = [
    "ALL_METHODS",
    "Beta",
    "Measured",
    "Study",
    "StudySettings",
    "deal",
    "open_study",
    "requests_of",
    "summary_of",
]

ALL_METHODS = ("CollabEdit", "GLOBAL", "SA", "TA", "TIES")

#: Weight of earlier rounds' keys in the prior.
Beta = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Settings = TypeVar("Settings", bound="StudySettings")


class StudySettings(BaseModel):
    """What every study depends on.

    Attributes:
        model: what to load.
        dataset: a data set's name or a file of records.
        clients: number of parties.
        edits_per_client: edits of each, one number for all or one a party.
        limit: deal only the first so many records of the data set; all of them where not given.
        merge: names of the methods to compare.
        editor: name of the editor.
        schedule: how residuals reach the layers.
        partition: ``iid`` or ``relation``.
        seed: of the partition, the contexts and all sampling.
        hyperparameters: settings; the model's preset where not given.
        covariance: file of the second moments; ``None`` collects them on text of the model's own.
        heldout: a text file whose perplexity is measured.
        generations: whether to measure fluency and consistency of generated text as well, which
            takes longer than all other measures.
        dtype: type of the weights.
        device: where to compute; the GPU where there is one by default.
        memory_budget: bytes beyond the model's weights that one stage may take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    dataset: str = "worldfacts"
    clients: int = Field(default=4, ge=1)
    edits_per_client: int | tuple[int, ...] = 8
    limit: int | None = Field(default=None, ge=1)
    merge: tuple[str, ...] = Field(default=ALL_METHODS, min_length=1)
    editor: str = DEFAULT_EDITOR
    schedule: Schedule = Schedule.SEQUENTIAL
    partition: str = "iid"
    seed: int = 0
    hyperparameters: Hyperparameters | None = None
    covariance: Path | None = None
    heldout: Path | None = None
    generations: bool = False
    dtype: str = "float32"
    device: str | None = None
    memory_budget: int | None = Field(default=None, ge=1)

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

    @field_validator("merge")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(resolve_method(name).name for name in names))

    @field_validator("editor")
    @classmethod
    def _known_editor(cls, name: str) -> str:
        return resolve_editor(name).name

    @model_validator(mode="after")
    def _mergeable(self: Settings) -> Settings:
        for name in self.merge:
            require_statistics(resolve_editor(self.editor), resolve_method(name))
        return self


class Measured(TypedDict):
    """What is measured of a model: every record, and the perplexity of the held-out text."""

    cases: list[CaseResult]
    perplexity: float | None


@dataclass(frozen=True)
class Study:
    """An open study.

    Attributes:
        settings: what was asked.
        run: where its results go.
        model: the unedited model.
        config: the first round on it.
        priors: the static priors ``A0`` by weight name.
        heldout: the text whose perplexity is measured, if any.
    """

    settings: StudySettings
    run: Run
    model: LanguageModel
    config: RoundConfig
    priors: Mapping[str, Prior]
    heldout: str | None

    def round_config(self) -> RoundConfig:
        """A round on the model as it is now, with the contexts and settings of the first one."""
        return self.config.on(self.model)

    def parties(
        self,
        shares: Sequence[Sequence[EditRequest]],
        config: RoundConfig | None = None,
        skip_known: float | None = None,
    ) -> list[Party]:
        """A party for each share of requests, on the model as it is now.

        Targets depend on the request and the model alone, so they are found for all parties
        together.

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
        if not chosen.rules.at_once:
            return [Party(self.model, share, chosen, cache=TargetCache()) for share in shares]
        flat = [request for share in shares for request in share]
        targets = optimise_targets(
            self.model, flat, chosen.contexts, chosen.hyperparameters, cache=TargetCache()
        ).split([len(share) for share in shares], dim=1)
        return [
            Party(self.model, share, chosen, targets=own)
            for share, own in zip(shares, targets, strict=True)
        ]

    def measure(self, stage: str, records: Sequence[Record]) -> Measured:
        """Measure the model as it is now; a finished stage is not computed again."""

        def compute() -> Measured:
            cases = evaluate(self.model, records)
            if self.settings.generations:
                texts = evaluate_generations(self.model, records, seed=self.settings.seed)
                for case, generated in zip(cases, texts, strict=True):
                    case.update(generated)  # type: ignore[typeddict-item]
            held_out = None if self.heldout is None else perplexity(self.model, self.heldout)
            return {"cases": cases, "perplexity": held_out}

        return self.run.json_stage(f"evaluation/{stage}", compute)

    def finish(self, summary: Mapping[str, Any]) -> Run:
        """Write the summary, with the settings, and return the run."""
        params = self.run.params()
        self.run.write_summary(
            {"experiment": params["experiment"], **summary, "settings": params["settings"]}
        )
        return self.run


def open_study(name: str, settings: StudySettings, results: Path, *, fresh: bool = False) -> Study:
    """Load what a study needs and open its run.

    An interrupted run with the same settings is continued from its last finished stage.

    Args:
        name: of the experiment.
        settings: what to run.
        results: folder of all runs.
        fresh: begin a new run even if an unfinished one with these settings exists.
    """
    covariance = None if settings.covariance is None else Covariance.load(settings.covariance)
    heldout = None if settings.heldout is None else _read_text(settings.heldout)
    model = load_model(
        settings.model,
        dtype=settings.dtype,
        device=settings.device,
        memory_budget=settings.memory_budget,
    )
    config = new_round(
        model,
        editor=settings.editor,
        schedule=settings.schedule,
        hyperparameters=settings.hyperparameters,
        seed=settings.seed,
    )
    if covariance is None and config.rules.has_statistics:
        covariance = default_covariance(model, config.layers, settings.seed)
    priors = config.priors(covariance)
    params = {
        "experiment": name,
        "settings": settings.model_dump(mode="json"),
        "round": config.model_dump(mode="json", exclude={"created"}),
        "covariance": None if covariance is None else covariance.corpus,
    }
    run = open_run(results, config.editor, params, fresh=fresh)
    round_file = run.folder / "round.json"
    if round_file.is_file():
        config = RoundConfig.load(round_file)  # its deltas name it by its hash
    else:
        config.save(round_file)
    return Study(settings, run, model, config, priors, heldout)


def deal(settings: StudySettings, rounds: int = 1) -> list[list[list[Record]]]:
    """Each round's share of records of each party; no record is dealt twice.

    Raises:
        DatasetError: when the data set cannot be had or is too small.
    """
    sizes = settings.edits_per_client
    per_client = [sizes] * settings.clients if isinstance(sizes, int) else list(sizes)
    shares = partition(
        take(load_dataset(settings.dataset), settings.limit),
        settings.clients,
        [size * rounds for size in per_client],
        by=cast(PartitionKind, settings.partition),  # checked by the callee
        seed=settings.seed,
    )
    return [
        [
            share[number * size : (number + 1) * size]
            for share, size in zip(shares, per_client, strict=True)
        ]
        for number in range(rounds)
    ]


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

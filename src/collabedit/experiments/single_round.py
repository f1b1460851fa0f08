"""One round: many parties' edits, merged by each method, measured before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from collabedit.covariance import Covariance, default_covariance
from collabedit.datasets import load_dataset, partition
from collabedit.datasets.partition import PartitionKind
from collabedit.editing import Hyperparameters, TargetCache
from collabedit.editing.hyperparameters import one_line
from collabedit.errors import InputError
from collabedit.evaluation import CaseResult, evaluate, evaluate_generations, perplexity, summarise
from collabedit.experiments.methods import distances, merged_delta
from collabedit.experiments.runs import Run, open_run
from collabedit.merging import resolve_method
from collabedit.models import LanguageModel, load_model
from collabedit.requests import Record
from collabedit.rounds import Delta, Party, RoundConfig, Schedule, new_round

__all__ = ["SingleRoundSettings", "single_round"]

ALL_METHODS = ("CollabEdit", "GLOBAL", "SA", "TA", "TIES")


class SingleRoundSettings(BaseModel):
    """What a single-round run depends on.

    Attributes:
        model: what to load.
        dataset: a data set's name or a file of records.
        clients: number of parties.
        edits_per_client: edits of each, one number for all or one a party.
        merge: names of the methods to compare.
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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    dataset: str = "worldfacts"
    clients: int = Field(default=4, ge=1)
    edits_per_client: int | tuple[int, ...] = 8
    merge: tuple[str, ...] = ALL_METHODS
    schedule: Schedule = Schedule.SEQUENTIAL
    partition: str = "iid"
    seed: int = 0
    hyperparameters: Hyperparameters | None = None
    covariance: Path | None = None
    heldout: Path | None = None
    generations: bool = False
    dtype: str = "float32"
    device: str | None = None

    @classmethod
    def checked(cls, **values: Any) -> SingleRoundSettings:
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


def single_round(settings: SingleRoundSettings, results: Path, *, fresh: bool = False) -> Run:
    """Run one round under each merge method and measure each.

    An interrupted run with the same settings is continued from its last finished stage.

    Args:
        settings: what to run.
        results: folder of all runs.
        fresh: begin a new run even if an unfinished one with these settings exists.

    Returns:
        The finished run.
    """
    records = load_dataset(settings.dataset)
    shares = partition(
        records,
        settings.clients,
        settings.edits_per_client,
        by=cast(PartitionKind, settings.partition),  # checked by the callee
        seed=settings.seed,
    )
    covariance = None if settings.covariance is None else Covariance.load(settings.covariance)
    heldout = None if settings.heldout is None else _read_text(settings.heldout)
    model = load_model(settings.model, dtype=settings.dtype, device=settings.device)
    config = new_round(
        model,
        schedule=settings.schedule,
        hyperparameters=settings.hyperparameters,
        seed=settings.seed,
    )
    if covariance is None:
        covariance = default_covariance(model, config.layers, settings.seed)
    covariance.check_model(config.model_sha256)
    params = {
        "experiment": "single-round",
        "settings": settings.model_dump(mode="json"),
        "round": config.model_dump(mode="json", exclude={"created"}),
        "covariance": covariance.corpus,
    }
    run = open_run(results, config.editor, params, fresh=fresh)
    round_file = run.folder / "round.json"
    if round_file.is_file():
        config = RoundConfig.load(round_file)  # its deltas name it by its hash
    else:
        config.save(round_file)
    cache = TargetCache()
    parties = [Party(model, [r.request for r in share], config, cache=cache) for share in shares]
    priors = covariance.priors(config.weights, config.prior_weight)
    flat = [record for share in shares for record in share]
    measure = partial(_measured, run, model, flat, heldout, settings)
    before = measure("unedited")
    deltas: dict[str, Delta] = {}
    after: dict[str, Measured] = {}
    for name in settings.merge:
        deltas[name] = merged_delta(resolve_method(name), parties, config, priors, run)
        with model.edited(deltas[name].changes):
            after[name] = measure(name)
    _write_cases(run, flat, before, after)
    run.write_summary(
        {
            "experiment": "single-round",
            "unedited": _summary(before),
            "methods": {name: _summary(measured) for name, measured in after.items()},
            "delta_relative_to_global": distances(deltas),
            "settings": params["settings"],
        }
    )
    return run


class Measured(TypedDict):
    """What is measured of a model: every record, and the perplexity of the held-out text."""

    cases: list[CaseResult]
    perplexity: float | None


def _measured(
    run: Run,
    model: LanguageModel,
    records: Sequence[Record],
    heldout: str | None,
    settings: SingleRoundSettings,
    name: str,
) -> Measured:
    def compute() -> Measured:
        cases = evaluate(model, records)
        if settings.generations:
            for case, texts in zip(
                cases, evaluate_generations(model, records, seed=settings.seed), strict=True
            ):
                case.update(texts)  # type: ignore[typeddict-item]
        return {
            "cases": cases,
            "perplexity": None if heldout is None else perplexity(model, heldout),
        }

    return run.json_stage(f"evaluation/{name}", compute)


def _summary(measured: Measured) -> dict[str, Any]:
    summary: dict[str, Any] = dict(summarise(measured["cases"]))
    if measured["perplexity"] is not None:
        summary["perplexity"] = measured["perplexity"]
    return summary


def _write_cases(
    run: Run, records: Sequence[Record], before: Measured, after: Mapping[str, Measured]
) -> None:
    """One file a record; ``post`` is of the first method, ``methods`` holds all."""
    for index, record in enumerate(records):
        methods = {name: measured["cases"][index] for name, measured in after.items()}
        run.write_case(
            record.case_id,
            {
                "case_id": record.case_id,
                "requested_rewrite": {
                    "prompt": record.request.prompt,
                    "subject": record.request.subject,
                    "relation_id": record.request.relation_id,
                    "target_new": {"str": record.request.target_new},
                    "target_true": {"str": record.request.target_true},
                },
                "pre": before["cases"][index],
                "post": next(iter(methods.values())),
                "methods": methods,
            },
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the held-out text {path}: {error}") from None

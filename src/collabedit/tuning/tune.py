"""Choosing the layers and the settings of an edit for a new model."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from collabedit.collaboration import edit_alone
from collabedit.covariance import default_covariance
from collabedit.datasets import load_dataset
from collabedit.editing import TargetCache, sample_contexts
from collabedit.editors import (
    Contexts,
    Hyperparameters,
    default_hyperparameters,
    resolve_editor,
)
from collabedit.errors import DatasetError, InputError
from collabedit.evaluation import evaluate, summarise
from collabedit.experiments.runs import Run, open_run
from collabedit.files import sha256_of_json, write_json, write_text
from collabedit.messages import Covariance, Delta
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round
from collabedit.progress import say
from collabedit.reporting.results import TuneResult
from collabedit.reporting.tables import tables_of
from collabedit.requests import Record
from collabedit.rounds import static_priors
from collabedit.settings import TuneSettings
from collabedit.tuning.causal_tracing import CausalTrace, known_facts, trace
from collabedit.tuning.search import (
    Trial,
    best_of,
    gain,
    layer_ranges,
    rank,
    target_settings,
    weights,
)

__all__ = ["tune"]


def tune(settings: TuneSettings, results: Path, *, fresh: bool = False) -> Run:
    """Trace which layers recall facts, try settings on some records, and keep the best.

    The current settings (the model's preset, or those scaled by depth) are tried first; then other
    layers; then, at the best layers, other clamps and steps. The best settings are in the summary's
    ``preset``, and in ``preset.json`` in the run's folder.

    Args:
        settings: what to run.
        results: folder of all runs.
        fresh: start a new run even if an unfinished one with these settings exists.

    Returns:
        The finished run.

    Raises:
        InputError: when the editor has nothing to tune here, or the records are unsuitable.
    """
    tuning = _open(settings, results, fresh)
    traced = tuning.trace()
    ranges = layer_ranges(traced)
    summary: dict[str, Any] = {"trace": asdict(traced), "ranges": ranges, "methods": {}}
    if settings.trials:
        summary |= tuning.search(ranges)
        write_json(tuning.run.folder / "preset.json", summary["preset"])
    params = tuning.run.params()
    asked = {name: params[name] for name in ("experiment", "settings", "versions")}
    result = TuneResult.of({**asked, **summary})
    tables = tables_of(result, "Tuning")
    write_text(tuning.run.folder / "report.md", "\n".join(table.markdown() for table in tables))
    result.save(tuning.run.folder)
    return tuning.run


def _open(settings: TuneSettings, results: Path, fresh: bool) -> _Tuning:
    if not resolve_editor(settings.editor).has_statistics:
        raise InputError(
            f"{settings.editor} has no targets and no prior, so there is nothing to tune; choose "
            "another editor"
        )
    records = load_dataset(settings.dataset)
    if len(records) < settings.records:
        raise DatasetError(
            f"{settings.records} records were asked for, but the data set has {len(records)}"
        )
    shuffled = random.Random(settings.seed).sample(records, len(records))
    if settings.trials:
        _check_measurable(shuffled[: settings.records])
    covariance = None if settings.covariance is None else Covariance.load(settings.covariance)
    model = settings.source.load()
    preset = default_hyperparameters(model.name, model.structure, settings.editor)
    present = settings.hyperparameters or preset.hyperparameters
    resolve_editor(settings.editor).check(present)
    model.weight_names(present.layers)
    model.structure.check_layers(present.layers)
    params = {
        "experiment": "tune",
        "settings": settings.model_dump(mode="json"),
        "present": present.model_dump(mode="json"),
        "model": model.state_fingerprint(),
        "records": sha256_of_json([asdict(record) for record in records]),
        "covariance": None if covariance is None else covariance.corpus,
    }
    run = open_run(results, settings.editor, params, fresh=fresh)
    return _Tuning(settings, run, model, present, shuffled, covariance)


def _check_measurable(records: Sequence[Record]) -> None:
    for record in records:
        if not (
            record.paraphrase_prompts
            and record.neighborhood_prompts
            and record.request.target_true is not None
        ):
            raise InputError(
                f"case {record.case_id} has no paraphrase, no neighbourhood prompt or no true "
                "object, which the Score needs; give complete CounterFact records"
            )


@dataclass
class _Tuning:
    """An open run.

    Attributes:
        settings: the search's settings.
        run: where its results go.
        model: the unedited model.
        present: its current settings.
        shuffled: all records, in random order.
        covariance: the user's, if any.
    """

    settings: TuneSettings
    run: Run
    model: LanguageModel
    present: Hyperparameters
    shuffled: Sequence[Record]
    covariance: Covariance | None

    def trace(self) -> CausalTrace:
        """Trace the first records, in random order, that the model knows."""

        def compute() -> dict[str, Any]:
            facts, examined = known_facts(self.model, self.shuffled, self.settings.facts)
            if not facts:
                raise InputError(
                    f"{self.model.name} knows none of the {examined} true objects in "
                    f"{self.settings.dataset}, so there is nothing to trace; give facts that it "
                    "knows"
                )
            return asdict(
                trace(
                    self.model,
                    facts,
                    examined=examined,
                    window=len(self.present.layers),
                    draws=self.settings.draws,
                    seed=self.settings.seed,
                )
            )

        return CausalTrace(**self.run.json_stage("trace", compute))

    def search(self, ranges: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        """Try settings; returns their part of the summary."""
        records = list(self.shuffled[: self.settings.records])
        unedited = self.run.json_stage("unedited", lambda: evaluate(self.model, records))
        others = [layers for layers in ranges if layers != self.present.layers]
        kinds = [self.present, *(self.present.with_changes(layers=layers) for layers in others)]
        first, left = kinds[: self.settings.trials], self.settings.trials - len(kinds)
        bench = _Bench(self, records, sorted({layer for kind in first for layer in kind.layers}))
        trials = bench.tried(first)
        layers = best_of(trials).hyperparameters.layers
        more = target_settings(self.present, layers, self.settings.seed)
        trials += bench.tried(more[: max(0, left)])
        return {
            "unedited": dict(summarise(unedited)),
            "methods": _rows(trials, bench.editor.weight_setting),
            "preset": best_of(trials).hyperparameters.model_dump(mode="json"),
        }


class _Bench:
    """Tries settings on the validation records."""

    def __init__(self, tuning: _Tuning, records: Sequence[Record], layers: Sequence[int]) -> None:
        self.tuning = tuning
        self.records = records
        self.editor = resolve_editor(tuning.settings.editor)
        self.layers = layers
        self.most = tuning.settings.trials * len(weights(tuning.present, self.editor))
        self.finished = 0

    @cached_property
    def covariance(self) -> Covariance:
        """The covariance of all layers that may be tried; needed only if a trial is unfinished."""
        model, seed = self.tuning.model, self.tuning.settings.seed
        covariance = self.tuning.covariance or default_covariance(model, self.layers, seed)
        covariance.check_model(model.fingerprint(model.weight_names(self.layers)))
        return covariance

    @cached_property
    def contexts(self) -> Contexts:
        """The contexts, the same for all trials."""
        return sample_contexts(self.tuning.model, self.tuning.settings.seed)

    def tried(self, kinds: Sequence[Hyperparameters]) -> list[Trial]:
        """Trials of some target settings, each with all weights of the prior."""
        return [self._try(choice) for kind in kinds for choice in weights(kind, self.editor)]

    def _try(self, choice: Hyperparameters) -> Trial:
        """Edit the records with some settings and measure them; finished trials are read back."""
        label = _label(choice, self.editor.weight_setting)
        name = label.replace(",", "").replace(" ", "_")
        stored = self.tuning.run.json_stage(f"trials/{name}", lambda: self._compute(choice))
        trial = Trial(choice, **stored)
        self.finished += 1
        say(f"Trial {self.finished} of at most {self.most}: {label}: Score {trial.score:.1f}")
        return trial

    def _compute(self, choice: Hyperparameters) -> dict[str, Any]:
        model, settings = self.tuning.model, self.tuning.settings
        config = new_round(
            model,
            editor=settings.editor,
            schedule=settings.schedule,
            hyperparameters=choice,
            contexts=self.contexts,
            seed=settings.seed,
        )
        requests = [record.request for record in self.records]
        # Targets depend on no prior: those of the same layers, clamp and steps are in the cache.
        party = Party(model, requests, config, cache=TargetCache())
        delta = edit_alone(
            party, config, static_priors(config, self.covariance, settings.memory_budget)
        )
        norm = _relative_norm(model, delta)
        with model.edited(delta.changes):
            return {"cases": evaluate(model, self.records), "norm": norm}


def _relative_norm(model: LanguageModel, delta: Delta) -> float:
    changed = math.hypot(*(float(change.dense().norm()) for change in delta.changes.values()))
    return changed / math.hypot(*(float(model.weight(name).norm()) for name in delta.changes))


def _rows(trials: Sequence[Trial], weight: str) -> dict[str, dict[str, Any]]:
    """Metrics of all trials by name, the best first; the first trial has the current settings."""
    present = trials[0]
    rows = {}
    for trial in sorted(trials, key=rank):
        choice = trial.hyperparameters
        difference, error = gain(trial, present)
        rows[_label(choice, weight)] = {
            **summarise(trial.cases),
            "present": trial is present,
            "gain": difference,
            "gain_error": error,
            "update_norm": trial.norm,
            "layers": _span(choice.layers),
            "weight": getattr(choice, weight),
            "clamp_factor": choice.clamp_factor,
            "target_steps": choice.target_steps,
        }
    return rows


def _label(choice: Hyperparameters, weight: str) -> str:
    return (
        f"layers {_span(choice.layers)}, lambda {getattr(choice, weight):g}, "
        f"clamp {choice.clamp_factor:g}, {choice.target_steps} steps"
    )


def _span(layers: tuple[int, ...]) -> str:
    return f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else str(layers[0])

"""Choosing settings to try, and the best of those tried."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from collabedit.editors import Editor, Hyperparameters
from collabedit.evaluation import CaseResult, summarise
from collabedit.tuning.causal_tracing import CausalTrace

__all__ = [
    "Trial",
    "best_of",
    "gain",
    "layer_ranges",
    "rank",
    "target_settings",
    "weights",
]

#: Multiples of the current settings to try.
_CLAMPS = (2 / 3, 1.0, 4 / 3)
_STEPS = (0.6, 1.0, 1.6)
_WEIGHTS = (0.1, 1.0, 10.0)

_RANGES = 4
#: Groups of records for the jackknife's standard error.
_GROUPS = 50


@dataclass(frozen=True)
class Trial:
    """Settings and their results.

    Attributes:
        hyperparameters: the settings.
        cases: the validation records, measured on the edited model.
        norm: the update's norm relative to that of the edited weights (Frobenius).
    """

    hyperparameters: Hyperparameters
    cases: Sequence[CaseResult]
    norm: float

    @property
    def score(self) -> float:
        """Score of the validation records; 0 if they have none."""
        return summarise(self.cases).get("score", 0.0)


def layer_ranges(trace: CausalTrace, count: int = _RANGES) -> list[tuple[int, ...]]:
    """Ranges of layers to edit: the windows whose MLP outputs have the largest effect.

    Adjacent windows are nearly the same, so those chosen begin at least two layers apart.
    """
    order = sorted(range(len(trace.mlp)), key=lambda first: -trace.mlp[first])
    chosen: list[int] = []
    for first in order:
        if len(chosen) < count and all(abs(first - other) > 1 for other in chosen):
            chosen.append(first)
    return [tuple(range(first, first + trace.window)) for first in chosen]


def target_settings(
    base: Hyperparameters, layers: tuple[int, ...], seed: int
) -> list[Hyperparameters]:
    """Other clamps and steps than the current ones, on some layers, in random order."""
    others = [
        base.with_changes(
            layers=layers,
            clamp_factor=round(clamp * base.clamp_factor, 3),
            target_steps=max(1, round(steps * base.target_steps)),
        )
        for clamp, steps in product(_CLAMPS, _STEPS)
        if (clamp, steps) != (1.0, 1.0)
    ]
    random.Random(seed).shuffle(others)
    return others


def weights(settings: Hyperparameters, editor: Editor) -> list[Hyperparameters]:
    """The settings with several weights of the prior, the current one first.

    An editor that satisfies its edits exactly does not depend on the weight.
    """
    if editor.ridge_of(settings) == 0:
        return [settings]
    name = editor.weight_setting
    present = getattr(settings, name)
    others = [float(f"{factor * present:.6g}") for factor in _WEIGHTS if factor != 1.0]
    return [settings] + [settings.with_changes(**{name: weight}) for weight in others]


def rank(trial: Trial) -> tuple[float, float]:
    """Sort key of trials, the best first: by Score, ties by the update's size."""
    return -trial.score, trial.norm


def best_of(trials: Sequence[Trial]) -> Trial:
    """The best of some trials."""
    return min(trials, key=rank)


def gain(trial: Trial, present: Trial) -> tuple[float, float]:
    """How far a trial's Score exceeds another's on the same records, and the standard error.

    The error is the jackknife's: the difference is recomputed without each group of records.
    """

    def difference(left_out: int | None) -> float:
        kept = [
            [case for index, case in enumerate(tried.cases) if index % groups != left_out]
            for tried in (trial, present)
        ]
        new, old = (summarise(cases).get("score", 0.0) for cases in kept)
        return new - old

    groups = min(len(trial.cases), _GROUPS)
    overall = difference(None)
    if groups == 1:
        return overall, 0.0
    parts = [difference(group) for group in range(groups)]
    spread = sum((part - fmean(parts)) ** 2 for part in parts)
    return overall, math.sqrt((groups - 1) / groups * spread)

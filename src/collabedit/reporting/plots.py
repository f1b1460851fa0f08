"""One plot per study, if matplotlib is installed (the extra ``plot``)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import singledispatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from collabedit.evaluation import Metric, metrics
from collabedit.files import atomic_path
from collabedit.reporting.results import (
    AugmentationResult,
    EditorsResult,
    ForgettingResult,
    Metrics,
    MultiRoundResult,
    OverlapResult,
    RunResult,
    Trial,
    TuneResult,
)

__all__ = ["draw", "save_plot"]

logger = logging.getLogger(__name__)


def save_plot(result: RunResult, path: Path) -> bool:
    """Draw a run's result as a PNG.

    Returns:
        Whether a plot was drawn: there is none without matplotlib.
    """
    if find_spec("matplotlib") is None:
        logger.warning('no plot: install matplotlib with pip install "collabedit[plot]"')
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained", dpi=120)
    draw(result, figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    path.chmod(0o644)
    return True


@singledispatch
def draw(result: RunResult, figure: Any) -> None:
    """Draw a result on a matplotlib figure; by default ES, PS, NS and Score of each method.

    Args:
        result: the result of any study; each has its own picture.
        figure: an empty ``matplotlib.figure.Figure``.
    """
    rows = {str(row["method"]): row for row in result.rows()}
    shown = [m for m in _percentages() if any(m.key in row for row in rows.values())]
    axes = figure.subplots()
    width = 0.8 / max(1, len(shown))
    for index, measure in enumerate(shown):
        heights = [row.get(measure.key, math.nan) for row in rows.values()]
        positions = [number + index * width for number in range(len(rows))]
        axes.bar(positions, heights, width, label=measure.heading)
    axes.set_xticks([n + 0.4 - width / 2 for n in range(len(rows))], rows, rotation=20, ha="right")
    axes.set_ylim(0, 100)
    axes.set_ylabel("percent")
    figure.legend(ncols=max(1, len(shown)), loc="outside upper center")


def _percentages() -> list[Metric]:
    """ES, PS, NS and Score."""
    return [row for row in metrics("headline") if row.unit == "%"]


@draw.register
def _editors(result: EditorsResult, figure: Any) -> None:
    """Score of each method, by editor and schedule."""
    parts = result.editors
    methods = list(dict.fromkeys(name for part in parts for name in part.methods))
    axes = figure.subplots()
    width = 0.8 / len(methods)
    for index, name in enumerate(methods):
        heights = [part.methods.get(name, {}).get("score", math.nan) for part in parts]
        axes.bar([n + index * width for n in range(len(parts))], heights, width, label=name)
    labels = [f"{part.editor}\n{part.schedule}" for part in parts]
    axes.set_xticks([n + 0.4 - width / 2 for n in range(len(parts))], labels, fontsize="small")
    axes.set_ylim(0, 100)
    axes.set_ylabel("Score, percent")
    figure.legend(ncols=len(methods), loc="outside upper center", fontsize="small")


@draw.register
def _rounds(result: MultiRoundResult, figure: Any) -> None:
    """Left, the mean Score of the rounds so far; right, that of each round's edits at the end."""
    left, right = figure.subplots(1, 2, sharey=True)
    for name, parts in result.rounds.items():
        so_far = [_mean_score(part) for part in parts]
        left.plot(result.measured[: len(parts)], so_far, marker="o", label=name)
        last = [measured.get("score", math.nan) for measured in parts[-1]]
        right.plot(range(1, len(last) + 1), last, marker="o", label=name)
    left.set(xlabel="after round", ylabel="mean Score of the rounds so far")
    right.set(xlabel="edited in round", title="after the last round")
    left.legend(fontsize="small")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)


def _mean_score(part: Sequence[Metrics]) -> float:
    scores = [measured.get("score", math.nan) for measured in part]
    return sum(scores) / len(scores)


@draw.register
def _curves(result: ForgettingResult, figure: Any) -> None:
    """ES, PS, NS and Score of the target set by the number of further edits."""
    shown = _percentages()
    panels = figure.subplots(1, len(shown), sharey=True)
    for axes, measure in zip(panels, shown, strict=True):
        for name, points in result.curves.items():
            further = [point["further_edits"] for point in points]
            axes.plot(further, [point.get(measure.key, math.nan) for point in points], label=name)
        axes.set(title=measure.heading, xlabel="further edits")
    panels[0].set_ylabel("percent, on the target set")
    panels[-1].legend(fontsize="small")


@draw.register
def _overlap(result: OverlapResult, figure: Any) -> None:
    """Left, residual norms over rounds; right, the effect of copies within one round."""
    left, right = figure.subplots(1, 2)
    for name, rows in result.repeated.items():
        numbers = range(1, len(rows) + 1)
        totals = [
            math.hypot(*(norm or 0.0 for norm in row.residual_norms.values())) for row in rows
        ]
        left.plot(numbers, totals, marker="o", label=name)
    left.set(xlabel="round of the same edits", ylabel="|R| over all layers")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(fontsize="small")
    for name, points in result.copies.items():
        copies = [point["copies"] for point in points]
        left_over = [point["remaining_residual"] for point in points]
        right.plot(copies, left_over, marker="o", label=name)
    right.axhline(1, color="grey", linewidth=0.8)
    right.set(xlabel="parties with the same edits", ylabel="|z - h| left", ylim=(0, None))
    right.legend(fontsize="small")


@draw.register
def _augmentation(result: AugmentationResult, figure: Any) -> None:
    """How often the conflicting answer wins, before and after."""
    rows = {str(row["method"]): row for row in result.rows()}
    axes = figure.subplots()
    width = 0.4
    for index, (key, label) in enumerate(
        (("rewrite_conflict_wins", "the prompt"), ("wordings_conflict_wins", "other wordings"))
    ):
        heights = [row.get(key, math.nan) for row in rows.values()]
        axes.bar([n + index * width for n in range(len(rows))], heights, width, label=label)
    axes.set_xticks([n + width / 2 for n in range(len(rows))], rows)
    axes.set(ylabel="percent of records where the conflict wins", ylim=(0, 100))
    figure.legend(ncols=2, loc="outside upper center")


@draw.register
def _tuning(result: TuneResult, figure: Any) -> None:
    """Left, indirect effects by layer; right, the Score of every trial by lambda."""
    traced, trials = result.trace, result.methods
    left, *rest = figure.subplots(1, 2 if trials else 1, squeeze=False)[0]
    centre = (traced.window - 1) / 2
    around = f"MLPs of {traced.window} layers around it" if centre else "its MLP"
    for means, deviations, shift, label in (
        (traced.hidden, traced.hidden_error, 0.0, "its state"),
        (traced.mlp, traced.mlp_error, centre, around),
    ):
        layers = [layer + shift for layer in range(len(means))]
        effects = [100 * effect for effect in means]
        errors = [100 * error for error in deviations]
        left.plot(layers, effects, marker=".", label=label)
        low = [effect - error for effect, error in zip(effects, errors, strict=True)]
        high = [effect + error for effect, error in zip(effects, errors, strict=True)]
        left.fill_between(layers, low, high, alpha=0.2)
    left.set(xlabel="layer", ylabel="average indirect effect, percent", ylim=(0, None))
    left.xaxis.get_major_locator().set_params(integer=True)
    for axes in rest:
        _trials(axes, trials)
    if result.preset is not None:
        best = result.preset["layers"]
        left.axvspan(best[0] - 0.5, best[-1] + 0.5, color="grey", alpha=0.2, label="best layers")
    left.legend(title="restored", fontsize="small")


def _trials(axes: Any, trials: Mapping[str, Trial]) -> None:
    kinds: dict[str, list[tuple[float, float]]] = {}
    for trial in trials.values():
        name = f"{trial.layers}, clamp {trial.clamp_factor:g}, {trial.target_steps} steps"
        score = trial.metrics.get("score", math.nan)
        kinds.setdefault(name, []).append((trial.weight, score))
    for name, points in kinds.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axes.set(xscale="log", xlabel="lambda", ylabel="Score on the validation records")
    axes.legend(title="layers", fontsize="x-small")

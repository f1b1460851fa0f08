"""One picture a study, for those who have matplotlib (the extra ``plot``)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from collabedit.files import atomic_path

__all__ = ["save_plot"]

logger = logging.getLogger(__name__)


def save_plot(summary: Mapping[str, Any], path: Path) -> bool:
    """Draw a study's summary as a PNG.

    Returns:
        Whether there is a picture: studies without one and installations without matplotlib are
        passed over.
    """
    draw = _DRAWERS.get(summary.get("experiment", ""))
    if draw is None:
        return False
    if find_spec("matplotlib") is None:
        logger.warning('no plot: install matplotlib with pip install "collabedit[plot]"')
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained", dpi=120)
    draw(figure, summary)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    path.chmod(0o644)
    return True


def _bars(figure: Any, summary: Mapping[str, Any]) -> None:
    """ES, PS, NS and Score of each method."""
    rows = {"unedited": summary["unedited"], **summary["methods"]}
    keys = [k for k in ("ES", "PS", "NS", "score") if any(k in row for row in rows.values())]
    axes = figure.subplots()
    width = 0.8 / max(1, len(keys))
    for place, key in enumerate(keys):
        heights = [row.get(key, math.nan) for row in rows.values()]
        positions = [number + place * width for number in range(len(rows))]
        axes.bar(positions, heights, width, label=key.replace("score", "Score"))
    axes.set_xticks([n + 0.4 - width / 2 for n in range(len(rows))], rows, rotation=20, ha="right")
    axes.set_ylim(0, 100)
    axes.set_ylabel("percent")
    figure.legend(ncols=max(1, len(keys)), loc="outside upper center")


def _editors(figure: Any, summary: Mapping[str, Any]) -> None:
    """Score of each method, by editor and schedule."""
    parts = summary["editors"]
    methods = list(dict.fromkeys(name for part in parts for name in part["methods"]))
    axes = figure.subplots()
    width = 0.8 / len(methods)
    for place, name in enumerate(methods):
        heights = [part["methods"].get(name, {}).get("score", math.nan) for part in parts]
        axes.bar([n + place * width for n in range(len(parts))], heights, width, label=name)
    labels = [f"{part['editor']}\n{part['schedule']}" for part in parts]
    axes.set_xticks([n + 0.4 - width / 2 for n in range(len(parts))], labels, fontsize="small")
    axes.set_ylim(0, 100)
    axes.set_ylabel("Score, percent")
    figure.legend(ncols=len(methods), loc="outside upper center", fontsize="small")


def _rounds(figure: Any, summary: Mapping[str, Any]) -> None:
    """Left, the mean Score of the rounds so far; right, that of each round's edits at the end."""
    left, right = figure.subplots(1, 2, sharey=True)
    for name, parts in summary["rounds"].items():
        so_far = [_mean_score(part) for part in parts]
        left.plot(range(1, len(parts) + 1), so_far, marker="o", label=name)
        last = [metrics.get("score", math.nan) for metrics in parts[-1]]
        right.plot(range(1, len(last) + 1), last, marker="o", label=name)
    left.set(xlabel="after round", ylabel="mean Score of the rounds so far")
    right.set(xlabel="edited in round", title="after the last round")
    left.legend(fontsize="small")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)


def _mean_score(part: list[dict[str, float]]) -> float:
    scores = [metrics.get("score", math.nan) for metrics in part]
    return sum(scores) / len(scores)


def _curves(figure: Any, summary: Mapping[str, Any]) -> None:
    """ES, PS, NS and Score of the target set by the number of further edits."""
    panels = figure.subplots(1, 4, sharey=True)
    for axes, key in zip(panels, ("ES", "PS", "NS", "score"), strict=True):
        for name, points in summary["curves"].items():
            further = [point["further_edits"] for point in points]
            axes.plot(further, [point.get(key, math.nan) for point in points], label=name)
        axes.set(title=key.replace("score", "Score"), xlabel="further edits")
    panels[0].set_ylabel("percent, on the target set")
    panels[-1].legend(fontsize="small")


def _overlap(figure: Any, summary: Mapping[str, Any]) -> None:
    """Left, residual norms over rounds; right, what copies within one round do."""
    left, right = figure.subplots(1, 2)
    for name, rows in summary["repeated"].items():
        numbers = range(1, len(rows) + 1)
        totals = [math.hypot(*row["residual_norms"].values()) for row in rows]
        left.plot(numbers, totals, marker="o", label=name)
    left.set(xlabel="round of the same edits", ylabel="|R| over all layers")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(fontsize="small")
    for name, rows in summary["copies"].items():
        copies = [row["copies"] for row in rows]
        right.plot(copies, [row["remaining_residual"] for row in rows], marker="o", label=name)
    right.axhline(1, color="grey", linewidth=0.8)
    right.set(xlabel="parties with the same edits", ylabel="|z - h| left", ylim=(0, None))
    right.legend(fontsize="small")


def _augmentation(figure: Any, summary: Mapping[str, Any]) -> None:
    """How often the conflicting answer wins, before and after."""
    rows = {"unedited": summary["unedited"], **summary["methods"]}
    axes = figure.subplots()
    width = 0.4
    for place, (key, label) in enumerate(
        (("rewrite_conflict_wins", "the prompt"), ("wordings_conflict_wins", "other wordings"))
    ):
        heights = [row.get(key, math.nan) for row in rows.values()]
        axes.bar([n + place * width for n in range(len(rows))], heights, width, label=label)
    axes.set_xticks([n + width / 2 for n in range(len(rows))], rows)
    axes.set(ylabel="percent of records where the conflict wins", ylim=(0, 100))
    figure.legend(ncols=2, loc="outside upper center")


def _tuning(figure: Any, summary: Mapping[str, Any]) -> None:
    """Left, indirect effects by layer; right, the Score of every trial by lambda."""
    traced, trials = summary["trace"], summary["methods"]
    left, *rest = figure.subplots(1, 2 if trials else 1, squeeze=False)[0]
    centre = (traced["window"] - 1) / 2
    around = f"MLPs of {traced['window']} layers around it" if centre else "its MLP"
    for name, shift, label in (
        ("hidden", 0.0, "its state"),
        ("mlp", centre, around),
    ):
        layers = [layer + shift for layer in range(len(traced[name]))]
        effects = [100 * effect for effect in traced[name]]
        errors = [100 * error for error in traced[f"{name}_error"]]
        left.plot(layers, effects, marker=".", label=label)
        low = [effect - error for effect, error in zip(effects, errors, strict=True)]
        high = [effect + error for effect, error in zip(effects, errors, strict=True)]
        left.fill_between(layers, low, high, alpha=0.2)
    left.set(xlabel="layer", ylabel="average indirect effect, percent", ylim=(0, None))
    left.xaxis.get_major_locator().set_params(integer=True)
    for axes in rest:
        _trials(axes, trials)
    if "preset" in summary:
        best = summary["preset"]["layers"]
        left.axvspan(best[0] - 0.5, best[-1] + 0.5, color="grey", alpha=0.2, label="best layers")
    left.legend(title="restored", fontsize="small")


def _trials(axes: Any, trials: Mapping[str, Mapping[str, Any]]) -> None:
    kinds: dict[str, list[tuple[float, float]]] = {}
    for row in trials.values():
        name = f"{row['layers']}, clamp {row['clamp_factor']:g}, {row['target_steps']} steps"
        kinds.setdefault(name, []).append((row["weight"], row.get("score", math.nan)))
    for name, points in kinds.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axes.set(xscale="log", xlabel="lambda", ylabel="Score on the validation records")
    axes.legend(title="layers", fontsize="x-small")


_DRAWERS: dict[str, Callable[[Any, Mapping[str, Any]], None]] = {
    "single-round": _bars,
    "editors": _editors,
    "multi-round": _rounds,
    "forgetting": _curves,
    "overlap": _overlap,
    "conflict": _bars,
    "augmentation": _augmentation,
    "tune": _tuning,
}

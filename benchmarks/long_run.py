"""Long runs beside each other: do edits collapse, what is forgotten, and what else is lost.

    python -m benchmarks.long_run NAME=RUN... [--out docs/images/long-run.png]

Each run is a folder of ``collabedit run multi-round`` by one method, with ``--heldout`` and
``--tasks``. Prints a table of what was measured after each round, and draws a plot per question.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, harmonic_mean

from matplotlib.figure import Figure

from collabedit.reporting.results import Metrics, MultiRoundResult

METRICS = ("ES", "PS", "NS")


@dataclass(frozen=True)
class Point:
    """What was measured after some rounds.

    Attributes:
        edits: made so far.
        all: ES, PS and NS of all of them, in percent.
        first: Score of the first round's.
        perplexity: of the held-out text.
        tasks: accuracy in each downstream task, in percent.
    """

    edits: int
    all: tuple[float, ...]
    first: float
    perplexity: float
    tasks: dict[str, float]

    @property
    def score(self) -> float:
        """Score of all edits."""
        return harmonic_mean(self.all)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.long_run", description=__doc__)
    parser.add_argument("runs", nargs="+", help="such as 'beta 0=results/MEMIT/run_000'")
    parser.add_argument("--out", type=Path, default=Path("docs/images/long-run.png"))
    given = parser.parse_args()
    named = (run.partition("=") for run in given.runs)
    curves = {name: list(_points(MultiRoundResult.load(run))) for name, _, run in named}
    for name, points in curves.items():
        _print(name, points)
    _draw(curves).savefig(given.out, dpi=110)


def _points(result: MultiRoundResult) -> Iterator[Point]:
    (method,) = result.rounds
    size = result.settings["parties"] * result.settings["edits_per_party"]
    for index, after in enumerate(result.measured):
        rounds = result.rounds[method][index]
        perplexity = result.perplexity_by_round[method][index] or float("nan")
        tasks = result.tasks[method][index]
        yield Point(
            after * size,
            tuple(_mean(rounds, metric) for metric in METRICS),
            rounds[0]["score"],
            perplexity,
            {name: 100 * measured["acc"] for name, measured in tasks.items()},
        )


def _mean(rounds: Sequence[Metrics], metric: str) -> float:
    """Over all records of some rounds."""
    records = sum(measured["records"] for measured in rounds)
    return sum(measured[metric] * measured["records"] for measured in rounds) / records


def _print(name: str, points: Sequence[Point]) -> None:
    tasks = " | ".join(points[0].tasks)
    print(
        f"\n{name}\n\n| edits | Score of all | ES, PS, NS | of the first | perplexity | {tasks} |"
    )
    print(f"|{'---|' * (5 + len(points[0].tasks))}")
    for point in points:
        parts = ", ".join(f"{value:.1f}" for value in point.all)
        accuracies = " | ".join(f"{value:.0f}" for value in point.tasks.values())
        print(
            f"| {point.edits:,} | {point.score:.1f} | {parts} | {point.first:.1f} | "
            f"{point.perplexity:,.1f} | {accuracies} |"
        )


def _draw(curves: dict[str, list[Point]]) -> Figure:
    panels: dict[str, Callable[[Point], float]] = {
        "Score of all edits": lambda point: point.score,
        "Score of the first round's edits": lambda point: point.first,
        "accuracy in downstream tasks, %": lambda point: fmean(point.tasks.values()),
        "held-out perplexity": lambda point: point.perplexity,
    }
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    subplots = figure.subplots(1, len(panels))
    for axes, (title, value) in zip(subplots, panels.items(), strict=True):
        for name, points in curves.items():
            edits = [point.edits for point in points]
            axes.plot(edits, list(map(value, points)), marker="o", markersize=3, label=name)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("edits")
    for axes in subplots[:-1]:
        axes.set_ylim(0, 102)
    subplots[-1].set_yscale("log")
    subplots[0].legend(fontsize="x-small", loc="lower left")
    return figure


if __name__ == "__main__":
    main()

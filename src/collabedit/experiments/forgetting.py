"""Forgetting: how much of a first set of edits survives further edits, batch by batch."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from collabedit.experiments.runs import Run
from collabedit.experiments.single_round import write_cases
from collabedit.experiments.study import (
    Measured,
    deal,
    known_norms,
    open_study,
    requests_of,
    summary_of,
)
from collabedit.experiments.trajectory import trajectories
from collabedit.reporting.results import ResidualNorms
from collabedit.requests import Record
from collabedit.settings import ForgettingSettings

__all__ = ["forgetting"]


def forgetting(
    settings: ForgettingSettings,
    results: Path,
    *,
    fresh: bool = False,
    executor: Executor | None = None,
) -> Run:
    """Edit a target set, then further edits batch by batch; measure the target set along the way.

    Args:
        settings: what to run.
        results: folder of all runs.
        fresh: start a new run even if an unfinished one with these settings exists.
        executor: workers (:func:`collabedit.workers.open_workers`); runs here by default.

    Returns:
        The finished run.
    """
    shares, batches = _deal(settings)
    study = open_study("forgetting", settings, results, fresh=fresh, executor=executor)
    rounds = [requests_of(shares), *(requests_of([batch]) for batch in batches)]
    targets = [record for share in shares for record in share]
    before = study.measure("unedited", targets)
    curves: dict[str, list[dict[str, Any]]] = {}
    last: dict[str, Measured] = {}
    norms: dict[str, ResidualNorms] = {}
    for trajectory in trajectories(settings.merge, settings.betas):
        name = trajectory.name
        curves[name] = []
        for state in trajectory.follow(study, rounds):
            step = state.finished - 1
            if step % settings.measure_every and step != len(batches):
                continue
            with study.model.edited(state.changes):
                last[name] = study.measure(f"{name}/after_{step}", targets)
            further = sum(len(batch) for batch in batches[:step])
            norms[name] = trajectory.about(study, state.finished)["residual_norms"]
            curves[name].append({"further_edits": further, **summary_of(last[name])})
    write_cases(study.run, targets, before, last)
    return study.finish(
        {
            "unedited": summary_of(before),
            "methods": {name: summary_of(measured) for name, measured in last.items()},
            "residual_norms": known_norms(norms),
            "curves": curves,
        }
    )


def _deal(settings: ForgettingSettings) -> tuple[list[list[Record]], list[list[Record]]]:
    """The parties' shares of the target set, and the batches of further edits."""
    sizes = settings.edits_per_party
    per_party = [sizes] * settings.parties if isinstance(sizes, int) else list(sizes)
    all_at_once = settings.model_copy(
        update={
            "parties": settings.parties + 1,
            "edits_per_party": (*per_party, settings.further),
        }
    )
    (shares,) = deal(all_at_once)
    further = shares.pop()
    size = settings.batch
    return shares, [further[start : start + size] for start in range(0, len(further), size)]

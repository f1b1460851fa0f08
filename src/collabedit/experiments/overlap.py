"""Overlap: the same edits from several parties, in one round and over several."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from collabedit.collaboration import merge_edits
from collabedit.editing.keys import measure
from collabedit.experiments.runs import Run
from collabedit.experiments.single_round import write_cases
from collabedit.experiments.study import (
    Measured,
    Study,
    deal,
    known_norms,
    open_study,
    summary_of,
)
from collabedit.experiments.trajectory import Trajectory
from collabedit.merging import resolve_method
from collabedit.messages import Delta
from collabedit.parties import Party
from collabedit.requests import EditRequest, Record
from collabedit.settings import OverlapSettings

__all__ = ["overlap"]


def overlap(
    settings: OverlapSettings,
    results: Path,
    *,
    fresh: bool = False,
    executor: Executor | None = None,
) -> Run:
    """Repeat the same edits, over rounds and within one.

    Over rounds: ``|R|`` by round and layer, with and without parties that skip known facts.
    Within a round: how each method merges ``n`` parties with the same edits.

    Args:
        settings: what to run.
        results: folder of all runs.
        fresh: start a new run even if an unfinished one with these settings exists.
        executor: workers (:func:`collabedit.workers.open_workers`); runs here by default.

    Returns:
        The finished run.
    """
    ((records,),) = deal(settings.model_copy(update={"parties": 1}))
    study = open_study("overlap", settings, results, fresh=fresh, executor=executor)
    before = study.measure("unedited", records)
    repeated, after = _over_rounds(study, settings, records)
    write_cases(study.run, records, before, after)
    return study.finish(
        {
            "unedited": summary_of(before),
            "methods": {name: summary_of(measured) for name, measured in after.items()},
            "residual_norms": known_norms(
                {
                    name: rows[-1]["residual_norms"]
                    for name, rows in zip(after, repeated.values(), strict=True)
                }
            ),
            "repeated": repeated,
            "copies": _within_a_round(study, settings, records),
        }
    )


def _over_rounds(
    study: Study, settings: OverlapSettings, records: Sequence[Record]
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Measured]]:
    """Each trajectory's rounds, and what is measured after the last one."""
    requests = [record.request for record in records]
    shares = [requests] * settings.parties
    after: dict[str, Measured] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for trajectory in (
        Trajectory("CollabEdit", "CollabEdit", settings.beta),
        Trajectory("CollabEdit, skipping", "CollabEdit", settings.beta, settings.skip_known),
    ):
        name = f"{trajectory.name}, {settings.rounds} rounds"
        rows[trajectory.name] = []
        for state in trajectory.follow(study, [shares] * settings.rounds):
            with study.model.edited(state.changes):
                after[name] = study.measure(f"{trajectory.name}/round_{state.finished}", records)
            facts = trajectory.about(study, state.finished)
            rows[trajectory.name].append({**facts, **summary_of(after[name])})
    return rows, after


def _within_a_round(
    study: Study, settings: OverlapSettings, records: Sequence[Record]
) -> dict[str, list[dict[str, Any]]]:
    """Each method's results by the number of parties with the same edits."""
    requests = [record.request for record in records]
    rows: dict[str, list[dict[str, Any]]] = {}
    for method in settings.merge:
        rows[method] = []
        first: Delta | None = None
        for copies in settings.copies:
            name = f"{method}, {copies} copies"
            delta = study.run.delta_stage(
                f"deltas/{name}", partial(_merge_copies, study, method, requests, copies)
            )
            first = first or delta
            with study.model.edited(delta.changes):
                measured = study.measure(name, records)
            row = study.run.json_stage(
                f"copies/{name}", partial(_compare, study, requests, delta, first)
            )
            rows[method].append({"copies": copies, **row, **summary_of(measured)})
    return rows


def _merge_copies(study: Study, method: str, requests: Sequence[EditRequest], copies: int) -> Delta:
    parties = study.parties([requests] * copies)
    merging, steps = resolve_method(method), study.settings.after_merge
    return merge_edits(merging, parties, study.config, study.priors, after_merge=steps).delta


def _compare(
    study: Study, requests: Sequence[EditRequest], delta: Delta, first: Delta
) -> dict[str, float]:
    """An update's size relative to the first, and how close it comes to the targets.

    ``remaining_residual`` is the mean of ``|z - h|`` on the edited model as a share of that on the
    unedited one: zero when targets are met, growing again when they are overshot.
    """
    (party,) = study.parties([requests])
    before = _misses(study, party)
    with study.model.edited(delta.changes):
        after = _misses(study, party)
    return {
        "relative_norm": max(
            float(change.dense().norm() / first.changes[name].dense().norm())
            for name, change in delta.changes.items()
        ),
        "remaining_residual": float((after / before).mean()),
    }


def _misses(study: Study, party: Party) -> Tensor:
    """``|z - h|`` of each edit, ``[n]``."""
    layer = study.config.layers[-1]
    contexts = study.config.contexts
    hidden = measure(study.model, party.requests, contexts, [layer], layer).hidden
    missed: Tensor = (party.targets.double() - hidden).norm(dim=0)
    return missed

"""Conflict: different answers to the same questions from different parties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from collabedit.collaboration import Merged, merge_edits
from collabedit.datasets import check_conflicts, conflicting, load_dataset
from collabedit.experiments.runs import Run
from collabedit.experiments.single_round import case_of
from collabedit.experiments.study import (
    Measured,
    Study,
    deal,
    known_norms,
    open_study,
    records_of,
    requests_of,
    summary_of,
)
from collabedit.merging import resolve_method
from collabedit.reporting.results import ResidualNorms
from collabedit.requests import Record
from collabedit.settings import MODES, ConflictSettings

__all__ = ["conflict"]


def conflict(
    settings: ConflictSettings,
    results: Path,
    *,
    fresh: bool = False,
    executor: Executor | None = None,
) -> Run:
    """Edit A, B or both, and measure A or B: one row per mode.

    Args:
        settings: what to run.
        results: folder of all runs.
        fresh: start a new run even if an unfinished one with these settings exists.
        executor: workers (:func:`collabedit.workers.open_workers`); runs here by default.

    Returns:
        The finished run.
    """
    (shares,) = deal(settings)
    sets = {"A": shares, "B": _conflicting_shares(settings, shares)}
    study = open_study("conflict", settings, results, fresh=fresh, executor=executor)
    flat = {name: records_of(part) for name, part in sets.items()}
    before = {name: study.measure(f"unedited_{name}", part) for name, part in flat.items()}
    after: dict[str, Measured] = {}
    norms: dict[str, ResidualNorms] = {}
    for name in settings.modes:
        mode = MODES[name]
        merged = study.merged(mode.edited, partial(_merged, study, settings, sets, mode.edited))
        norms[name] = dict(merged.residual_norms)
        with study.model.edited(merged.delta.changes):
            stage = f"{mode.edited}_measured_{mode.measured}"
            after[name] = study.measure(stage, flat[mode.measured])
    _write_cases(study.run, flat, before, after)
    return study.finish(
        {
            "unedited": summary_of(before["A"]),
            "unedited_b": summary_of(before["B"]),
            "methods": {name: summary_of(measured) for name, measured in after.items()},
            "residual_norms": known_norms(norms),
        }
    )


def _write_cases(
    run: Run,
    records: Mapping[str, Sequence[Record]],
    before: Mapping[str, Measured],
    after: Mapping[str, Measured],
) -> None:
    """One file per question: its record of A, and that of B as ``conflicting``."""
    for index, pair in enumerate(zip(records["A"], records["B"], strict=True)):
        ours, theirs = (
            case_of(
                record,
                index,
                before[name],
                {mode: part for mode, part in after.items() if MODES[mode].measured == name},
            )
            for name, record in zip("AB", pair, strict=True)
        )
        run.write_case(ours["case_id"], {**ours, "conflicting": theirs})


def _conflicting_shares(
    settings: ConflictSettings, shares: Sequence[Sequence[Record]]
) -> list[list[Record]]:
    """Each share's questions with other answers."""
    if settings.conflicts is not None:
        others = load_dataset(settings.conflicts)
        return [check_conflicts(share, others) for share in shares]
    dataset = load_dataset(settings.dataset)
    flat = iter(conflicting(records_of(shares), settings.seed, dataset))
    return [[next(flat) for _ in share] for share in shares]


def _merged(
    study: Study,
    settings: ConflictSettings,
    sets: dict[str, list[list[Record]]],
    edited: str,
) -> Merged:
    parties = study.parties(
        [requests for name in edited.split("+") for requests in requests_of(sets[name])]
    )
    method = resolve_method(settings.merge[0])
    steps = settings.after_merge
    return merge_edits(method, parties, study.config, study.priors, after_merge=steps)

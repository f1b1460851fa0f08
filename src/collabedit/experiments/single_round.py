"""One round: many parties' edits, merged by each method, evaluated before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from collabedit.collaboration import Merged, distances, edit_alone, merge_edits
from collabedit.experiments.runs import Run
from collabedit.experiments.study import (
    Measured,
    Study,
    deal,
    different_records,
    known_norms,
    open_study,
    requests_of,
    summary_of,
)
from collabedit.merging import resolve_method
from collabedit.messages import Delta
from collabedit.parties import Party
from collabedit.parties.in_process import secure_aggregation_of
from collabedit.progress import plan
from collabedit.progress.plans import round_stages
from collabedit.requests import Record
from collabedit.settings import SingleRoundSettings

__all__ = ["case_of", "edit_and_measure", "single_round", "write_cases"]


def single_round(
    settings: SingleRoundSettings,
    results: Path,
    *,
    fresh: bool = False,
    executor: Executor | None = None,
) -> Run:
    """Run one round under each merge method and measure each.

    Args:
        settings: what to run.
        results: folder of all runs.
        fresh: start a new run even if an unfinished one with these settings exists.
        executor: workers (:func:`collabedit.workers.open_workers`); runs here by default.

    Returns:
        The finished run.
    """
    (shares,) = deal(settings)
    secure = None
    if settings.secure_aggregation:
        secure = secure_aggregation_of([len(share) for share in shares])
    stages = round_stages(
        len(settings.merge),
        answers=settings.asks_for_answers,
        heldout=settings.heldout is not None,
    )
    with plan(stages):
        study = open_study(
            "single-round", settings, results, fresh=fresh, executor=executor, secure=secure
        )
        before = study.measure("unedited", different_records(shares))
        return edit_and_measure(study, shares, before)


def edit_and_measure(study: Study, shares: Sequence[Sequence[Record]], before: Measured) -> Run:
    """Merge the parties' edits by each method of a study, measure each, and finish its run.

    Args:
        study: the open study.
        shares: each party's records.
        before: their measurements on the unedited model.
    """
    parties, records = study.parties(requests_of(shares)), different_records(shares)
    merged: dict[str, Merged] = {}
    after: dict[str, Measured] = {}
    for name in study.settings.merge:
        merged[name] = _merged(study, name, parties)
        with study.model.edited(merged[name].delta.changes):
            after[name] = study.measure(name, records)
    write_cases(study.run, records, before, after)
    return study.finish(
        {
            "unedited": summary_of(before),
            "methods": {name: summary_of(measured) for name, measured in after.items()},
            "delta_relative_to_global": distances({n: m.delta for n, m in merged.items()}),
            "residual_norms": known_norms({n: dict(m.residual_norms) for n, m in merged.items()}),
        }
    )


def _merged(study: Study, name: str, parties: Sequence[Party]) -> Merged:
    config, priors, run = study.config, study.priors, study.run

    def own_deltas() -> dict[str, Delta]:
        return {
            f"party {index}": run.delta_stage(
                f"deltas/party_{index}", partial(edit_alone, party, config, priors)
            )
            for index, party in enumerate(parties)
        }

    def compute() -> Merged:
        steps = study.settings.after_merge
        method = resolve_method(name)
        return merge_edits(method, parties, config, priors, own_deltas, after_merge=steps)

    return study.merged(name, compute)


def write_cases(
    run: Run, records: Sequence[Record], before: Measured, after: Mapping[str, Measured]
) -> None:
    """One file per record; ``post`` is from the first method, ``methods`` has all of them."""
    for index, record in enumerate(records):
        run.write_case(record.case_id, case_of(record, index, before, after))


def case_of(
    record: Record, index: int, before: Measured, after: Mapping[str, Measured]
) -> dict[str, Any]:
    """The measurements of one record, the ``index``-th of those measured."""
    methods = {name: measured["cases"][index] for name, measured in after.items()}
    return {
        "case_id": record.case_id,
        "requested_rewrite": {
            "prompt": record.request.prompt,
            "subject": record.request.subject,
            "relation_id": record.request.relation_id,
            "target_new": {"str": record.request.target_new},
            "target_true": {"str": record.request.target_true},
        },
        "pre": before["cases"][index],
        "post": next(iter(methods.values()), None),
        "methods": methods,
    }

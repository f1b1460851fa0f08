"""Augmentation, the paper's remedy for conflicts: edit the preferred answer in many forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from statistics import fmean
from typing import TypedDict, cast

from collabedit.datasets import RoundEdit, load_round_edits, load_wordings, partition
from collabedit.datasets.partition import PartitionKind
from collabedit.evaluation import score
from collabedit.experiments.runs import Run
from collabedit.experiments.study import Study, known_norms, open_study
from collabedit.experiments.trajectory import Trajectory
from collabedit.requests import EditRequest, Record
from collabedit.settings import AugmentationSettings

__all__ = ["augmentation"]


class AnswerPair(TypedDict):
    """Probabilities per token (geometric mean) of both answers after one prompt."""

    preferred: float
    conflict: float


class _Case(TypedDict):
    case_id: int
    rewrite: AnswerPair
    other_wordings: list[AnswerPair]


#: What is measured after which round; the first round writes a third object.
_MEASURED = {"edited away": 1, "before augmentation": 2, "after augmentation": 3}


def augmentation(
    settings: AugmentationSettings,
    results: Path,
    *,
    fresh: bool = False,
    executor: Executor | None = None,
) -> Run:
    """Three rounds: an edit, its reversal against a conflicting edit, the preferred one augmented.

    Every record is measured on the model of each round: how likely the preferred and the
    conflicting answer are, after the prompt and after wordings that were never edited.

    Args:
        settings: what to run.
        results: folder of all runs.
        fresh: start a new run even if an unfinished one with these settings exists.
        executor: workers (:func:`collabedit.workers.open_workers`); runs here by default.

    Returns:
        The finished run.
    """
    shares = _deal(settings)
    study = open_study("augmentation", settings, results, fresh=fresh, executor=executor)
    flat = [item for share in shares for item in share]
    measured = {"unedited": _measure(study, "unedited", flat)}
    trajectory = Trajectory(settings.merge[0], settings.merge[0], settings.beta)
    for state in trajectory.follow(study, _rounds(settings, shares)):
        name = next(name for name, number in _MEASURED.items() if number == state.finished)
        with study.model.edited(state.changes):
            measured[name] = _measure(study, name, flat)
    for index, item in enumerate(flat):
        cases = {name: part[index] for name, part in measured.items()}
        study.run.write_case(item.case_id, {"record": _described(item), **cases})
    unedited = _summary(measured.pop("unedited"))
    return study.finish(
        {
            "unedited": unedited,
            "methods": {name: _summary(cases) for name, cases in measured.items()},
            "residual_norms": known_norms(
                {
                    name: trajectory.about(study, number)["residual_norms"]
                    for name, number in _MEASURED.items()
                }
            ),
        }
    )


def _deal(settings: AugmentationSettings) -> list[list[RoundEdit]]:
    """Each party's records."""
    wordings = None if settings.wordings is None else load_wordings(settings.wordings)
    items = load_round_edits(settings.dataset, wordings, settings.seed)[: settings.limit]
    by_id = {item.case_id: item for item in items}
    shares = partition(
        [Record(item.request(item.edited)) for item in items],
        settings.parties,
        settings.edits_per_party,
        by=cast(PartitionKind, settings.partition),  # checked by the callee
        seed=settings.seed,
    )
    return [[by_id[record.case_id] for record in share] for share in shares]


def _rounds(
    settings: AugmentationSettings, shares: Sequence[Sequence[RoundEdit]]
) -> list[list[list[EditRequest]]]:
    """The requests of each party in each round; in the second, as many other parties conflict."""
    return [
        [[item.request(item.edited) for item in share] for share in shares],
        [
            *([item.request(item.conflict) for item in share] for share in shares),
            *([item.request(item.preferred) for item in share] for share in shares),
        ],
        [[r for item in share for r in _augmented(settings, item)] for share in shares],
    ]


def _augmented(settings: AugmentationSettings, item: RoundEdit) -> list[EditRequest]:
    requests = [item.request(item.preferred)]
    if settings.augment_objects:
        requests += [item.request(label) for label in item.further]
    if settings.augment_prompts:
        requests += [item.request(item.preferred, prompt) for prompt in item.wordings[::2]]
    return requests


def _measure(study: Study, stage: str, items: Sequence[RoundEdit]) -> list[_Case]:
    def compute() -> list[_Case]:
        prompts = [[item.prompt, *item.wordings[1::2]] for item in items]
        pairs = [
            (prompt.replace("{}", item.subject), target)
            for item, item_prompts in zip(items, prompts, strict=True)
            for prompt in item_prompts
            for target in (item.preferred, item.conflict)
        ]
        probabilities = iter([math.exp(-result.nll) for result in score(study.model, pairs)])
        cases: list[_Case] = []
        for item, item_prompts in zip(items, prompts, strict=True):
            answers: list[AnswerPair] = [
                {"preferred": next(probabilities), "conflict": next(probabilities)}
                for _ in item_prompts
            ]
            cases.append(
                {"case_id": item.case_id, "rewrite": answers[0], "other_wordings": answers[1:]}
            )
        return cases

    return study.run.json_stage(f"evaluation/{stage}", compute)


def _summary(cases: Sequence[_Case]) -> dict[str, float]:
    """Mean difference of the probabilities, and the share of records where the conflict wins.

    Over wordings, a record's probabilities are averaged first.
    """
    summary = {"records": len(cases), **_compared("rewrite", [case["rewrite"] for case in cases])}
    others = [
        AnswerPair(
            preferred=fmean(pair["preferred"] for pair in case["other_wordings"]),
            conflict=fmean(pair["conflict"] for pair in case["other_wordings"]),
        )
        for case in cases
        if case["other_wordings"]
    ]
    return {**summary, **(_compared("wordings", others) if others else {})}


def _compared(name: str, pairs: Sequence[AnswerPair]) -> dict[str, float]:
    return {
        f"{name}_difference": 100 * fmean(p["preferred"] - p["conflict"] for p in pairs),
        f"{name}_conflict_wins": 100 * fmean(p["conflict"] > p["preferred"] for p in pairs),
    }


def _described(item: RoundEdit) -> dict[str, str]:
    return {
        "prompt": item.prompt,
        "subject": item.subject,
        "edited": item.edited,
        "preferred": item.preferred,
        "conflict": item.conflict,
    }

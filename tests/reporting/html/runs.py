"""Small runs made by hand, written as a study writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collabedit.reporting.results import Case, Costs, RunResult, StageCost
from tests.reporting.test_tables import BETTER, SCORES, WEIGHT

METHODS = ("CollabEdit", "GLOBAL", "SA", "TA", "TIES")


def block(case_id: int, holds: bool, **more: Any) -> dict[str, Any]:
    """What was measured of a record on one model."""
    new, old = (0.25, 3.5) if holds else (4.0, 1.0)
    losses = {"target_new": new, "target_true": old}
    return {
        "case_id": case_id,
        "kind": "counterfact",
        "rewrite_prompts_probs": [losses],
        "paraphrase_prompts_probs": [losses, losses],
        "neighborhood_prompts_probs": [losses, {"target_new": 3.0, "target_true": 1.0}],
        **more,
    }


def case(case_id: int, subject: str, target: str, methods: tuple[str, ...] = METHODS) -> Case:
    """One record; averaging loses every edit with an odd number."""
    answers = [
        {
            "form": "question",
            "prompt": "Where?",
            "text": f"In {target}.",
            "right": True,
            "about": True,
        }
    ]
    return Case.model_validate(
        {
            "case_id": case_id,
            "requested_rewrite": {
                "prompt": "{} lies in",
                "subject": subject,
                "relation_id": f"P{case_id % 3}",
                "target_new": {"str": target},
                "target_true": {"str": "France"},
            },
            "pre": block(case_id, holds=False, text=[f"{subject} lies in France."]),
            "post": block(case_id, holds=True),
            "methods": {
                name: block(case_id, holds=name != "SA" or case_id % 2 == 0, answers=answers)
                for name in methods
            },
        }
    )


def result(count: int = 6, experiment: str = "single-round", **parts: Any) -> RunResult:
    """A finished run."""
    subjects = [f"Subject {number}" for number in range(count)]
    made = RunResult.of(
        {
            "experiment": experiment,
            "unedited": SCORES,
            "methods": dict.fromkeys(METHODS, BETTER),
            "delta_relative_to_global": {"CollabEdit": 1e-15, "SA": 0.75},
            "residual_norms": {"CollabEdit": {WEIGHT.format(5): 12.5, WEIGHT.format(6): None}},
            "settings": {"model": "smollm2-135m", "parties": 2, "merge": list(METHODS)},
            "versions": {"collabedit": "0.2"},
            **parts,
        }
    )
    cases = [case(number, subject, "Italy") for number, subject in enumerate(subjects)]
    costs = Costs(stages={"deltas/CollabEdit": StageCost(seconds=12.5, bytes=4096)})
    return made.model_copy(update={"cases": cases, "costs": costs})


def multi_round() -> RunResult:
    """A finished run of two rounds."""
    rounds = {name: [[BETTER], [SCORES, BETTER]] for name in METHODS}
    by_round = {"CollabEdit": [0.0, 1e-15], "SA": [0.7, None]}
    return result(experiment="multi-round", rounds=rounds, distance_from_pooled_by_round=by_round)


def written(folder: Path, made: RunResult) -> Path:
    """Write a run as its study does."""
    folder.mkdir(parents=True)
    made.save(folder)
    made.costs.save(folder)
    return folder

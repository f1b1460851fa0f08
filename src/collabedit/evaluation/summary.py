"""The field's metrics of an edited model, from the results of its records.

As MEMIT's ``summarize.py`` does, a metric is first averaged over a record's prompts and then over
the records that have such prompts. Where all records have equally many prompts, as in CounterFact,
that is the share of all prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, harmonic_mean
from typing import Any, TypedDict

from collabedit.evaluation.cases import CaseResult

__all__ = ["METRICS", "Summary", "summarise"]

METRICS: dict[str, str] = {
    "ES": "efficacy score: percentage of rewrite prompts with P(new object) > P(true object)",
    "PS": "paraphrase score: percentage of paraphrase prompts with P(new) > P(true)",
    "NS": "neighbourhood score: percentage of neighbourhood prompts with P(true) > P(new)",
    "score": (
        "harmonic mean of ES, PS and NS, or for zsRE of the three token accuracies; "
        "0 if one of them is 0"
    ),
    "rewrite_accuracy": (
        "percentage of rewrite prompts after which every token of the new object is the most "
        "likely one"
    ),
    "paraphrase_accuracy": (
        "percentage of paraphrase prompts after which every token of the new object is the most "
        "likely one"
    ),
    "neighborhood_accuracy": (
        "percentage of neighbourhood prompts after which every token of the true object is the "
        "most likely one"
    ),
    "rewrite_token_accuracy": (
        "zsRE: percentage of the answer's tokens that are the most likely one after the question "
        "and the answer's earlier tokens"
    ),
    "paraphrase_token_accuracy": "zsRE: the same after the question in other words",
    "neighborhood_token_accuracy": ("zsRE: the same for the known answer to an unrelated question"),
    "fluency": (
        "mean of the generations' 2-gram and 3-gram entropies in bits, weighted 2/3 and 4/3, "
        "times 100"
    ),
    "consistency": "tf-idf cosine of the generations with the reference texts, times 100",
    "records": "number of records",
}
"""What each key of a :class:`Summary` means. Probabilities are per-token geometric means."""

_Values = Callable[[CaseResult], Sequence[float]]


class Summary(TypedDict, total=False):
    """Metrics by their names in :data:`METRICS`; those that nothing measured are absent."""

    records: int
    ES: float
    PS: float
    NS: float
    score: float
    rewrite_accuracy: float
    paraphrase_accuracy: float
    neighborhood_accuracy: float
    rewrite_token_accuracy: float
    paraphrase_token_accuracy: float
    neighborhood_token_accuracy: float
    fluency: float
    consistency: float


def summarise(results: Sequence[CaseResult]) -> Summary:
    """Average the results of records into the field's metrics, 0 to 100.

    Args:
        results: results as :func:`collabedit.evaluation.evaluate` returns them, or read back.

    Returns:
        The metrics that the records allow. ``score`` is there when its three parts are, and
        absent when counterfact and zsRE records are mixed.
    """
    summary: Summary = {"records": len(results)}
    for name, values in _VALUES.items():
        means = [fmean(own) for result in results if (own := values(result))]
        if means:
            summary[name] = 100 * fmean(means)  # type: ignore[literal-required]
    kinds = {result["kind"] for result in results}
    parts = _SCORE_PARTS[kinds.pop()] if len(kinds) == 1 else ()
    if parts and all(part in summary for part in parts):
        summary["score"] = harmonic_mean(
            [summary[part] for part in parts]  # type: ignore[literal-required]
        )
    return summary


_SCORE_PARTS = {
    "counterfact": ("ES", "PS", "NS"),
    "zsre": tuple(f"{part}_token_accuracy" for part in ("rewrite", "paraphrase", "neighborhood")),
}


def _success(part: str, likelier: str, other: str) -> _Values:
    def values(result: CaseResult) -> list[bool]:
        losses: list[dict[str, float]] = _get(result, f"{part}_prompts_probs")
        return [item[likelier] < item[other] for item in losses if "target_true" in item]

    return values


def _accuracy(part: str, kind: str) -> _Values:
    def values(result: CaseResult) -> list[bool]:
        flags: list[bool] = _get(result, f"{part}_prompts_correct")
        return flags if result["kind"] == kind else []

    return values


def _single(key: str) -> _Values:
    def values(result: CaseResult) -> list[float]:
        return [_get(result, key)] if key in result else []

    return values


def _get(result: CaseResult, key: str) -> Any:  # a TypedDict knows literal keys only
    return result.get(key, [])


_VALUES: dict[str, _Values] = {
    "ES": _success("rewrite", "target_new", "target_true"),
    "PS": _success("paraphrase", "target_new", "target_true"),
    "NS": _success("neighborhood", "target_true", "target_new"),
    "rewrite_accuracy": _accuracy("rewrite", "counterfact"),
    "paraphrase_accuracy": _accuracy("paraphrase", "counterfact"),
    "neighborhood_accuracy": _accuracy("neighborhood", "counterfact"),
    "rewrite_token_accuracy": _accuracy("rewrite", "zsre"),
    "paraphrase_token_accuracy": _accuracy("paraphrase", "zsre"),
    "neighborhood_token_accuracy": _accuracy("neighborhood", "zsre"),
    "fluency": _single("ngram_entropy"),
    "consistency": _single("reference_score"),
}

"""The registry of metrics of edited models, one row each.

As MEMIT's ``summarize.py`` does, a metric is first averaged over a record's prompts and then over
the records that have such prompts. If all records have equally many prompts, as in CounterFact,
that is the share of all prompts. Tables, plots and files use this registry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean
from typing import Any, Literal

from collabedit.evaluation.cases import CaseResult
from collabedit.names import Registry

__all__ = [
    "Direction",
    "Level",
    "Metric",
    "Summary",
    "metric",
    "metrics",
    "register_metric",
    "score_parts",
    "summarise",
]

#: Metrics by key; those that nothing measured are absent.
Summary = dict[str, float]

Direction = Literal["higher", "lower", "neither"]

#: Where a metric is shown: ``headline`` even in tables with little room, such as one row per round;
#: ``comparison`` also in comparisons of editors; ``detail`` only in a run's own table.
Level = Literal["headline", "comparison", "detail"]
_LEVELS: tuple[Level, ...] = ("headline", "comparison", "detail")

_Values = Callable[[CaseResult], Sequence[float]]


@dataclass(frozen=True)
class Metric:
    """One measure.

    Attributes:
        key: its name in files.
        heading: its name in tables.
        definition: one line.
        unit: of its values, such as ``%``; empty for plain numbers.
        direction: which values are better.
        decimals: shown in tables; ``None`` shows as many as the value needs.
        scientific: shown with an exponent.
        level: the tables that show it.
        values: a record's values, from 0 to 1, empty if it does not apply; ``None`` for
            metrics that are not averages over records.
    """

    key: str
    heading: str
    definition: str
    unit: str = "%"
    direction: Direction = "higher"
    decimals: int | None = 1
    scientific: bool = False
    level: Level = "detail"
    values: _Values | None = None


_METRICS: Registry[Metric] = Registry("metric")


def register_metric(new: Metric) -> Metric:
    """Add a metric to the registry; it appears in summaries and tables from then on."""
    _METRICS.add(new.key, new)
    return new


def metrics(level: Level = "detail") -> list[Metric]:
    """The metrics that tables of a level show, in order; all by default."""
    shown = _LEVELS[: _LEVELS.index(level) + 1]
    return [row for row in _METRICS if row.level in shown]


def metric(key: str) -> Metric:
    """The metric with a key.

    Raises:
        UnknownNameError: when there is none.
    """
    return _METRICS.find(key)


def summarise(results: Sequence[CaseResult]) -> Summary:
    """Average the results of records into the field's metrics, 0 to 100.

    Args:
        results: results as :func:`collabedit.evaluation.evaluate` returns them, or read back.

    Returns:
        The number of ``records``, and the metrics that apply to them. ``score`` is present if its
        three parts are, and absent if counterfact and zsRE records are mixed.
    """
    summary: Summary = {"records": len(results)}
    for row in metrics():
        if row.values is None:
            continue
        means = [fmean(values) for result in results if (values := row.values(result))]
        if means:
            summary[row.key] = 100 * fmean(means)
    parts = score_parts(results)
    if parts and all(part in summary for part in parts):
        summary["score"] = harmonic_mean([summary[part] for part in parts])
    return summary


def score_parts(results: Sequence[CaseResult]) -> tuple[str, ...]:
    """Keys of the metrics whose harmonic mean is the Score; none if kinds are mixed."""
    kinds = {result["kind"] for result in results}
    return _SCORE_PARTS[kinds.pop()] if len(kinds) == 1 else ()


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


def _get(result: CaseResult, key: str) -> Any:  # a TypedDict accepts literal keys only
    return result.get(key, [])


for _metric in (
    Metric(
        "ES",
        "ES",
        "efficacy score: percentage of rewrite prompts with P(new object) > P(true object)",
        level="headline",
        values=_success("rewrite", "target_new", "target_true"),
    ),
    Metric(
        "PS",
        "PS",
        "paraphrase score: percentage of paraphrase prompts with P(new) > P(true)",
        level="headline",
        values=_success("paraphrase", "target_new", "target_true"),
    ),
    Metric(
        "NS",
        "NS",
        "neighbourhood score: percentage of neighbourhood prompts with P(true) > P(new)",
        level="headline",
        values=_success("neighborhood", "target_true", "target_new"),
    ),
    Metric(
        "score",
        "Score",
        "harmonic mean of ES, PS and NS, or for zsRE of the three token accuracies; 0 if one of "
        "them is 0",
        level="headline",
    ),
    Metric(
        "rewrite_accuracy",
        "ES acc",
        "percentage of rewrite prompts after which every token of the new object is the most "
        "likely one",
        values=_accuracy("rewrite", "counterfact"),
    ),
    Metric(
        "paraphrase_accuracy",
        "PS acc",
        "percentage of paraphrase prompts after which every token of the new object is the most "
        "likely one",
        values=_accuracy("paraphrase", "counterfact"),
    ),
    Metric(
        "neighborhood_accuracy",
        "NS acc",
        "percentage of neighbourhood prompts after which every token of the true object is the "
        "most likely one",
        values=_accuracy("neighborhood", "counterfact"),
    ),
    Metric(
        "rewrite_token_accuracy",
        "ES tok",
        "zsRE: percentage of the answer's tokens that are the most likely one after the question "
        "and the answer's earlier tokens",
        level="comparison",
        values=_accuracy("rewrite", "zsre"),
    ),
    Metric(
        "paraphrase_token_accuracy",
        "PS tok",
        "zsRE: the same after the paraphrased question",
        level="comparison",
        values=_accuracy("paraphrase", "zsre"),
    ),
    Metric(
        "neighborhood_token_accuracy",
        "NS tok",
        "zsRE: the same for the known answer to an unrelated question",
        level="comparison",
        values=_accuracy("neighborhood", "zsre"),
    ),
    Metric(
        "fluency",
        "fluency",
        "mean of the generations' 2-gram and 3-gram entropies in bits, weighted 2/3 and 4/3, times "
        "100",
        unit="bits / 100",
        level="comparison",
        values=_single("ngram_entropy"),
    ),
    Metric(
        "consistency",
        "consist.",
        "tf-idf cosine of the generations with the reference texts, times 100",
        level="comparison",
        values=_single("reference_score"),
    ),
    Metric(
        "perplexity",
        "ppl",
        "perplexity of a held-out text",
        unit="",
        direction="lower",
        decimals=2,
        level="comparison",
    ),
    Metric(
        "rewrite_difference",
        "P difference",
        "augmentation: mean probability of the preferred answer minus that of the conflicting one",
        decimals=2,
    ),
    Metric(
        "rewrite_conflict_wins",
        "conflict wins",
        "augmentation: percentage of records where the conflicting answer is likelier",
        direction="lower",
    ),
    Metric(
        "wordings_difference",
        "in other words",
        "augmentation: the difference after wordings that were never edited",
        decimals=2,
    ),
    Metric(
        "wordings_conflict_wins",
        "conflict wins",
        "augmentation: percentage of records where the conflicting answer is likelier after "
        "wordings that were never edited",
        direction="lower",
    ),
    Metric(
        "distance_from_global",
        "distance",
        "of the update from GLOBAL's: the largest over layers of |D - D_GLOBAL| / |D_GLOBAL|",
        unit="",
        direction="neither",
        scientific=True,
        level="comparison",
    ),
    Metric(
        "relative_norm",
        "|D| / |D of first|",
        "overlap: norm of the update relative to that of the fewest copies, largest over layers",
        unit="",
        direction="neither",
        decimals=2,
        level="headline",
    ),
    Metric(
        "remaining_residual",
        "|z - h| left",
        "overlap: mean share of each edit's |z - h| that the edit leaves; 0 meets the target",
        unit="",
        direction="lower",
        decimals=2,
        level="headline",
    ),
    Metric(
        "gain",
        "gain",
        "tuning: Score above that of the current settings",
        unit="",
        level="headline",
    ),
    Metric(
        "gain_error",
        "+-",
        "tuning: standard error of the gain (jackknife)",
        unit="",
        level="headline",
        direction="neither",
    ),
    Metric(
        "update_norm",
        "update",
        "tuning: norm of the update relative to that of the edited weights (Frobenius)",
        unit="",
        direction="neither",
        decimals=3,
        level="headline",
    ),
):
    register_metric(_metric)

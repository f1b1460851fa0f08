"""Intervals against plain resampling, and against distributions known exactly."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from collabedit.evaluation import CaseResult, summarise
from collabedit.reporting.bootstrap import bootstrap


def case(number: int, new: float, paraphrase: float, *neighbours: float) -> CaseResult:
    """A record with the new object's advantage in likelihood, negative if it has none."""

    def losses(margins: tuple[float, ...]) -> list[dict[str, float]]:
        return [{"target_new": 5.0, "target_true": 5.0 + margin} for margin in margins]

    made = {
        "case_id": number,
        "kind": "counterfact",
        "rewrite_prompts_probs": losses((new,)),
        "paraphrase_prompts_probs": losses((paraphrase,)),
        "neighborhood_prompts_probs": losses(neighbours),
    }
    return cast(CaseResult, made)


def some_cases(seed: int, count: int = 9) -> list[CaseResult]:
    draw = np.random.default_rng(seed)
    return [case(n, *draw.normal(size=2 + n % 3)) for n in range(count)]


def test_every_resample_is_the_summary_of_its_records() -> None:
    cases, draws = some_cases(1), 50
    found = bootstrap({"a": cases}, seed=3, draws=draws).resampled["a"]
    counts = np.random.default_rng(3).multinomial(len(cases), [1 / len(cases)] * 9, size=draws)
    for number, own in enumerate(counts):
        chosen = [case for case, times in zip(cases, own, strict=True) for _ in range(times)]
        expected = summarise(chosen)
        for key in ("ES", "PS", "NS", "score"):
            if key in expected:
                assert found[key][number] == pytest.approx(expected[key], rel=1e-12, abs=1e-9)


def test_ends_are_percentiles_of_the_resamples() -> None:
    found = bootstrap({"a": some_cases(2)}, draws=1001)
    interval = found.interval("a", "ES")
    assert interval is not None
    ordered = sorted(found.resampled["a"]["ES"])
    assert interval.low == pytest.approx(ordered[25])
    assert interval.high == pytest.approx(ordered[975])
    assert interval.value == summarise(some_cases(2))["ES"]


def test_two_records_that_disagree_have_the_widest_interval() -> None:
    """Resamples are 0, 50 and 100 with probabilities 1/4, 1/2 and 1/4."""
    found = bootstrap({"a": [case(0, 1, 1, -1), case(1, -1, 1, -1)]}, draws=4000)
    interval = found.interval("a", "ES")
    assert interval is not None
    assert (interval.low, interval.value, interval.high) == (0, 50, 100)
    values, counts = np.unique(found.resampled["a"]["ES"], return_counts=True)
    assert values.tolist() == [0, 50, 100]
    # five standard deviations of the share that is 50
    assert abs(counts[1] / 4000 - 0.5) < 5 * (0.25 / 4000) ** 0.5


def test_differences_are_paired() -> None:
    """A method that is always better by the same amount is certainly better."""
    worse, better = some_cases(4), some_cases(4)
    found = bootstrap({"a": worse, "b": better, "c": some_cases(5)})
    same = found.difference("a", "b", "score")
    other = found.difference("a", "c", "ES")
    back = found.difference("c", "a", "ES")
    assert same is not None
    assert other is not None
    assert back is not None
    assert (same.low, same.value, same.high) == (0, 0, 0)
    assert other.low < other.high
    assert (back.low, back.high) == pytest.approx((-other.high, -other.low))


def test_unmeasured_metrics_have_no_interval() -> None:
    found = bootstrap({"a": [case(0, 1, 1)]})
    assert found.interval("a", "NS") is None
    assert found.interval("a", "score") is None
    assert bootstrap({"a": []}).interval("a", "ES") is None
    with pytest.raises(ValueError, match="different numbers of records"):
        bootstrap({"a": [case(0, 1, 1)], "b": []})

"""The measures of attacks, against plain counting and published figures."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from collabedit.algebra import compress
from collabedit.privacy.audit import (
    Interval,
    binomial_interval,
    curve_of,
    residual_match,
    span_energy,
    verdict,
    weighted_energy,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_the_area_matches_scikit_learn_including_ties(seed: int) -> None:
    scores = (3 * random(60, seed=seed)).round()
    labels = [index < 20 for index in range(60)]
    curve = curve_of(scores[:20].tolist(), scores[20:].tolist())
    assert curve.auc.value == pytest.approx(roc_auc_score(labels, scores))
    assert curve.auc.low <= curve.auc.value <= curve.auc.high


def test_rates_at_few_false_positives_count_strictly() -> None:
    others = [float(x) for x in range(200)]
    curve = curve_of([198.5, 197.5, 300.0, 0.0], others)
    assert curve.tpr[0.01].value == 0.75  # two of 200 may pass: those at 198 and 199
    assert curve.tpr[0.001].value == 0.25
    assert curve.recall == {1: 0.25, 4: 0.5, 5: 0.75, 10: 0.75, 50: 0.75}


def test_exact_binomial_intervals() -> None:
    """Clopper and Pearson: 0 of 10 and 5 of 10, as in published tables."""
    none, half, all_ = (binomial_interval(found, 10) for found in (0, 5, 10))
    assert (none.low, round(none.high, 4)) == (0.0, 0.3085)
    assert (round(half.low, 4), round(half.high, 4)) == (0.1871, 0.8129)
    assert (round(all_.low, 4), all_.high) == (0.6915, 1.0)


def test_statistics_give_away_members_and_nobody_else() -> None:
    keys, residuals = random(30, 5), random(8, 5, seed=1)
    factors = compress(keys, residuals)
    candidates = torch.cat([keys, random(30, 20, seed=2)], dim=1)
    energy = span_energy(factors.keys, candidates)
    torch.testing.assert_close(energy[:5], torch.ones(5, dtype=torch.float64))
    assert energy[5:].max() < 0.9
    guesses = torch.cat([residuals, random(8, 20, seed=3)], dim=1)
    match = residual_match(factors.keys, factors.residuals, candidates, guesses)
    torch.testing.assert_close(match[:5], torch.ones(5, dtype=torch.float64))
    assert match[5:].max() < 0.99
    assert weighted_energy(factors.keys, candidates).max() <= 1


@pytest.mark.parametrize(
    ("auc", "words"),
    [
        (Interval(0.52, 0.45, 0.6), "no better than guessing"),
        (Interval(1.0, 1.0, 1.0), "finds out"),
        (Interval(0.8, 0.7, 0.9), "finds out in part"),
        (Interval(0.6, 0.55, 0.65), "hardly better than guessing"),
        (Interval(0.3, 0.2, 0.4), "worse than guessing"),
    ],
)
def test_an_area_is_put_into_words(auc: Interval, words: str) -> None:
    assert verdict(auc) == words

"""The mathematics of an audit: attacks on what parties send, and how well they do.

An attack gives every candidate fact a score; the higher, the more likely it is a member. This
module has the scores that need only the matrices sent, and measures of any scores; what needs the
model is in :mod:`collabedit.experiments.audit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Curve",
    "Interval",
    "binomial_interval",
    "curve_of",
    "residual_match",
    "span_energy",
    "verdict",
    "weighted_energy",
]

#: Singular values below this share of the largest count as zero.
_RANK = 1e-10
_RESAMPLES = 1000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval.

    Attributes:
        value: the estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """How well scores separate members from non-members.

    Attributes:
        false_positives: increasing rates along the ROC curve.
        true_positives: the rates at the same points.
        auc: area under it: the chance that a member scores above a non-member, ties one half.
        tpr: true-positive rate at 1 % and at 0.1 % false positives, by that rate.
        recall: share of the members among the ``k`` highest scores, by ``k``.
        members: number of members.
        others: number of non-members.
    """

    false_positives: tuple[float, ...]
    true_positives: tuple[float, ...]
    auc: Interval
    tpr: Mapping[float, Interval]
    recall: Mapping[int, float]
    members: int
    others: int


def span_energy(columns: Tensor, candidates: Tensor) -> Tensor:
    """Share of each candidate that lies in a span, 1 for those it contains.

    Args:
        columns: ``[d, r]``, spanning vectors.
        candidates: ``[d, n]``.

    Returns:
        ``[n]``.
    """
    left, singular, _ = torch.linalg.svd(columns.double(), full_matrices=False)
    basis = left[:, singular > _RANK * singular.max()]
    shares: Tensor = (basis.T @ candidates).square().sum(0) / candidates.square().sum(0)
    return shares


def weighted_energy(columns: Tensor, candidates: Tensor) -> Tensor:
    """``|Y^T k|^2 / (|Y|^2 |k|^2)``: how much of a matrix's weight lies along each candidate.

    Args:
        columns: ``Y [d, r]``.
        candidates: ``[d, n]``.
    """
    along = (columns.T @ candidates).square().sum(0)
    shares: Tensor = along / (columns.square().sum() * candidates.square().sum(0))
    return shares


def residual_match(keys: Tensor, residuals: Tensor, candidates: Tensor, guesses: Tensor) -> Tensor:
    """Cosine of the residual that the statistics give a candidate's key with the guessed one.

    For a member ``k = F c`` the statistics give ``G c = r``.

    Args:
        keys: ``F [d_in, r]``.
        residuals: ``G [d_out, r]``.
        candidates: keys of the candidates, ``[d_in, n]``.
        guesses: their residuals, ``[d_out, n]``.
    """
    given = residuals @ (torch.linalg.pinv(keys, rtol=_RANK) @ candidates)
    return torch.cosine_similarity(given, guesses, dim=0)


def curve_of(members: Sequence[float], others: Sequence[float], *, seed: int = 0) -> Curve:
    """Measure how well scores separate members from non-members.

    Args:
        members: scores of the members; at least one.
        others: scores of the non-members; at least one.
        seed: of the bootstrap, which resamples members and non-members separately.
    """
    inside = torch.tensor(list(members), dtype=torch.float64)
    outside = torch.tensor(list(others), dtype=torch.float64)
    scores = torch.cat([inside, outside])
    thresholds = torch.unique(scores).flip(0)
    false = [float((outside >= t).double().mean()) for t in thresholds]
    true = [float((inside >= t).double().mean()) for t in thresholds]
    ranked = torch.argsort(scores, descending=True, stable=True)
    # Ties count against the attacker: non-members with the same score come first.
    order = sorted(ranked.tolist(), key=lambda i: (-float(scores[i]), i < len(inside)))
    sizes = sorted({1, 5, 10, 50, len(inside)} & set(range(1, len(scores) + 1)))
    return Curve(
        (0.0, *false),
        (0.0, *true),
        _bootstrapped(inside, outside, seed),
        {rate: _tpr_at(inside, outside, rate) for rate in (0.01, 0.001)},
        {k: sum(i < len(inside) for i in order[:k]) / len(inside) for k in sizes},
        len(inside),
        len(outside),
    )


def _auc(inside: Tensor, outside: Tensor) -> float:
    ordered, _ = outside.sort()
    below = torch.searchsorted(ordered, inside)
    upto = torch.searchsorted(ordered, inside, right=True)
    return float((below + upto).double().mean() / (2 * len(outside)))


def _bootstrapped(inside: Tensor, outside: Tensor, seed: int) -> Interval:
    generator = torch.Generator().manual_seed(seed)

    def resampled(scores: Tensor) -> Tensor:
        return scores[torch.randint(len(scores), (len(scores),), generator=generator)]

    values = sorted(_auc(resampled(inside), resampled(outside)) for _ in range(_RESAMPLES))
    edge = round(_RESAMPLES * (1 - _CONFIDENCE) / 2)
    return Interval(_auc(inside, outside), values[edge], values[-edge - 1])


def _tpr_at(inside: Tensor, outside: Tensor, rate: float) -> Interval:
    """At the lowest threshold that lets no more than this share of non-members through."""
    allowed = int(rate * len(outside))
    ordered = outside.sort(descending=True).values
    threshold = ordered[allowed] if allowed < len(outside) else -math.inf
    above = int((inside > threshold).sum())
    return binomial_interval(above, len(inside))


def binomial_interval(successes: int, trials: int) -> Interval:
    """A share with its exact 95 % confidence interval (Clopper and Pearson, 1934)."""
    tail = (1 - _CONFIDENCE) / 2

    def at_most(count: int, share: float) -> float:
        terms = (
            math.comb(trials, i) * share**i * (1 - share) ** (trials - i) for i in range(count + 1)
        )
        return sum(terms)

    low = 0.0 if successes == 0 else _root(lambda p: 1 - at_most(successes - 1, p) - tail)
    high = 1.0 if successes == trials else _root(lambda p: tail - at_most(successes, p))
    return Interval(successes / trials, low, high)


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return low


def verdict(auc: Interval) -> str:
    """What an area under the curve means, in words."""
    if auc.low <= 0.5 <= auc.high:
        return "no better than guessing"
    if auc.value < 0.5:
        return "worse than guessing"
    if auc.value >= 0.99:
        return "finds out"
    return "finds out in part" if auc.value >= 0.7 else "hardly better than guessing"

"""Confidence intervals over records by the paired bootstrap (Efron and Tibshirani, 1993)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from collabedit.evaluation import CaseResult, metrics, summarise
from collabedit.evaluation.metrics import Metric, score_parts

__all__ = ["DRAWS", "Bootstrap", "Interval", "bootstrap"]

Array = npt.NDArray[np.float64]

#: Resamples; the ends of an interval are then accurate to about a tenth of its width.
DRAWS = 2000

#: Percentiles at the ends of a 95 % interval.
_ENDS = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A value measured on the records, with its 95 % percentile interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Models measured on the same records, and on the same resamples of them.

    Attributes:
        records: how many there are.
        measured: by model, metrics of the records themselves, 0 to 100.
        resampled: by model and metric, the metric of each resample: [draws].
    """

    records: int
    measured: Mapping[str, Mapping[str, float]]
    resampled: Mapping[str, Mapping[str, Array]]

    def interval(self, model: str, key: str) -> Interval | None:
        """A metric of a model; ``None`` if it was not measured."""
        if key not in self.resampled[model]:
            return None
        return _interval(self.measured[model][key], self.resampled[model][key])

    def difference(self, model: str, other: str, key: str) -> Interval | None:
        """A metric of a model minus that of another, on the same resamples.

        The records' difficulty cancels out, so the interval is narrower than those of the two
        models suggest.
        """
        own, others = self.resampled[model], self.resampled[other]
        if key not in own or key not in others:
            return None
        value = self.measured[model][key] - self.measured[other][key]
        return _interval(value, own[key] - others[key])


def bootstrap(
    cases: Mapping[str, Sequence[CaseResult]], *, seed: int = 0, draws: int = DRAWS
) -> Bootstrap:
    """Resample the records with replacement, and average each of many resamples.

    Args:
        cases: by model, the results of the same records in the same order.
        seed: of the draws.
        draws: number of resamples.

    Raises:
        ValueError: when the models have different numbers of records.
    """
    sizes = {len(results) for results in cases.values()}
    if len(sizes) > 1:
        raise ValueError(f"the models have different numbers of records: {sorted(sizes)}")
    records = sizes.pop() if sizes else 0
    if records == 0:
        return Bootstrap(0, {name: {} for name in cases}, {name: {} for name in cases})
    chances = np.full(records, 1 / records)
    counts = np.random.default_rng(seed).multinomial(records, chances, size=draws)
    return Bootstrap(
        records,
        {name: summarise(results) for name, results in cases.items()},
        {name: _resampled(results, counts.astype(np.float64)) for name, results in cases.items()},
    )


def _resampled(cases: Sequence[CaseResult], counts: Array) -> dict[str, Array]:
    """Each metric of each resample.

    Args:
        cases: one per record.
        counts: how often each resample has each record, [draws, records].
    """
    resampled: dict[str, Array] = {}
    for measure in metrics():
        values = _by_record(measure, cases)
        known = ~np.isnan(values)
        if known.any():
            weights = counts @ known
            sums = counts @ np.where(known, values, 0.0)
            # A resample without a record that has the metric does not count for it.
            resampled[measure.key] = np.divide(
                100 * sums, weights, out=np.full(len(counts), np.nan), where=weights > 0
            )
    parts = score_parts(cases)
    if parts and all(part in resampled for part in parts):
        resampled["score"] = _harmonic_mean(np.stack([resampled[part] for part in parts]))
    return resampled


def _by_record(measure: Metric, cases: Sequence[CaseResult]) -> Array:
    """A metric's mean over each record's prompts, NaN if it does not apply: [records]."""
    by_case = [[] if measure.values is None else measure.values(case) for case in cases]
    return np.array([fmean(values) if values else np.nan for values in by_case], dtype=np.float64)


def _harmonic_mean(parts: Array) -> Array:
    """The harmonic mean over the first axis; 0 if a part is 0."""
    safe = np.where(parts == 0, 1.0, parts)
    mean = len(parts) / (1 / safe).sum(axis=0)
    return np.where((parts == 0).any(axis=0), 0.0, mean)


def _interval(value: float, resampled: Array) -> Interval:
    low, high = np.nanpercentile(resampled, _ENDS)
    return Interval(value, float(low), float(high))

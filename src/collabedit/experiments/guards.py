"""Early warnings over several rounds: which measures leave their range, and what to do."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from collabedit.algebra import LowRankUpdate
from collabedit.editors import Editor, Hyperparameters, Procedure
from collabedit.merging import MergeMethod, Merges
from collabedit.reporting.results import EarlyWarning

__all__ = ["Advice", "Guard", "RoundSeen", "relative_norm"]

logger = logging.getLogger(__name__)

#: A round's change, relative to the median of the earlier rounds' changes. Summing four parties'
#: copies of an edit, four times its change, costs 20 points of the Score; two copies cost two
#: points (docs/results.md, "Overlap").
_MOST_GROWTH = 3.0
#: All changes, relative to the unedited weight.
_MOST_CHANGE = 1.0
#: Held-out perplexity, relative to the unedited model's. CollabEdit raises it by 6 % with 200
#: edits; task arithmetic, with NS down by 14 points, by 18 % ("Several rounds").
_MOST_PERPLEXITY = 1.2
#: Score of the first round's edits, relative to their Score when first measured. With nothing
#: forgotten, the Score of 200 edits is two points below that of the first 40 (same section).
_LEAST_SCORE = 0.9


@dataclass(frozen=True)
class Advice:
    """What to do about a warning; it depends on the editor and on the merge method.

    Attributes:
        smaller: against changes that are too large.
        kept: against forgetting the first round's edits.
    """

    smaller: str
    kept: str

    @classmethod
    def of(cls, editor: Editor, settings: Hyperparameters, method: MergeMethod) -> Advice:
        """The advice for an editor's edits under some settings, merged by a method."""
        return cls(
            f"edit fewer facts per round, {_less(editor, settings)}, or restrain the change by "
            "--after-merge PRUNE",
            _kept(editor, method),
        )


def _less(editor: Editor, settings: Hyperparameters) -> str:
    """Which setting makes an editor change less."""
    if not editor.has_statistics:
        return "lower ft_learning_rate"
    if editor.procedure is Procedure.GRADIENTS:
        return "lower gradient_rate"
    if (
        editor.ridge_of(settings) == 0
    ):  # it satisfies its edits exactly, whatever the prior's weight
        return "lower clamp_factor"
    return f"raise {editor.weight_setting}"


def _kept(editor: Editor, method: MergeMethod) -> str:
    if not editor.has_statistics:
        return "choose an editor that can protect earlier edits (MEMIT with --beta)"
    if method.merges is Merges.SUM:
        return "raise --beta, so that earlier keys cost more"
    return "merge by CollabEdit, which can protect earlier keys (--beta)"


@dataclass(frozen=True)
class RoundSeen:
    """What the guard checks after a round.

    Attributes:
        change: the round's own change, relative to the unedited weight, largest over layers.
        total: all changes since the unedited model, likewise.
        perplexity: of the held-out text, if it was measured.
        first_score: Score of the first round's edits now, if they have one.
    """

    change: float
    total: float
    perplexity: float | None = None
    first_score: float | None = None


@dataclass
class Guard:
    """Watches one trajectory and warns when a measure leaves its range.

    Attributes:
        name: the trajectory's name, for the messages.
        advice: what to do, for the messages.
        perplexity: of the held-out text on the unedited model, if it was measured.
        warnings: the warnings so far.
    """

    name: str
    advice: Advice
    perplexity: float | None = None
    warnings: list[EarlyWarning] = field(default_factory=list)
    _seen: list[RoundSeen] = field(default_factory=list)
    _outside: set[str] = field(default_factory=set)

    def see(self, seen: RoundSeen) -> list[EarlyWarning]:
        """Check one more round; a measure that stays out of range is not reported again.

        Args:
            seen: measures of the next round.

        Returns:
            Warnings about measures that left their range in this round.
        """
        self._seen.append(seen)
        outside = {warning.measure: warning for warning in self._outside_now(seen)}
        left = [warning for name, warning in outside.items() if name not in self._outside]
        self._outside = {*outside, *(self._outside & _unmeasured(seen))}
        self.warnings += left
        for warning in left:
            logger.warning("%s, after round %d: %s", self.name, warning.round, warning.message)
        return left

    def _outside_now(self, seen: RoundSeen) -> Iterator[EarlyWarning]:
        number, smaller = len(self._seen), self.advice.smaller
        if number > 1:
            usual = statistics.median(earlier.change for earlier in self._seen[:-1])
            if seen.change > _MOST_GROWTH * usual > 0:
                yield EarlyWarning(
                    round=number,
                    measure="change",
                    value=seen.change,
                    limit=_MOST_GROWTH * usual,
                    message=f"the round changes a weight by {seen.change:.3g} of its norm, more "
                    f"than {_MOST_GROWTH:g} times as much as earlier rounds do: {smaller}",
                )
        if seen.total > _MOST_CHANGE:
            yield EarlyWarning(
                round=number,
                measure="total",
                value=seen.total,
                limit=_MOST_CHANGE,
                message=f"all changes of a weight are {seen.total:.3g} times its norm: {smaller}",
            )
        if seen.perplexity is not None and self.perplexity is not None:
            limit = _MOST_PERPLEXITY * self.perplexity
            if not seen.perplexity <= limit:  # also true for NaN
                yield EarlyWarning(
                    round=number,
                    measure="perplexity",
                    value=seen.perplexity,
                    limit=limit,
                    message=f"held-out perplexity is {seen.perplexity:.4g}, but was "
                    f"{self.perplexity:.4g} unedited: {smaller}; deploy the state before this "
                    "round",
                )
        yield from self._forgotten(seen, number)

    def _forgotten(self, seen: RoundSeen, number: int) -> Iterator[EarlyWarning]:
        known = [one.first_score for one in self._seen if one.first_score is not None]
        first = known[0] if known else None
        if first is None or seen.first_score is None or len(known) == 1:
            return
        limit = _LEAST_SCORE * first
        if not seen.first_score >= limit:
            yield EarlyWarning(
                round=number,
                measure="first_score",
                value=seen.first_score,
                limit=limit,
                message=f"the first round's edits score {seen.first_score:.1f}, but "
                f"{first:.1f} when they were first measured: {self.advice.kept}",
            )


def _unmeasured(seen: RoundSeen) -> set[str]:
    """The measures that were not taken after a round, since ``--measure`` left it out."""
    taken = {"perplexity": seen.perplexity, "first_score": seen.first_score}
    return {measure for measure, value in taken.items() if value is None}


def relative_norm(
    changes: Mapping[str, LowRankUpdate],
    weights: Mapping[str, Tensor],
    earlier: Mapping[str, LowRankUpdate] | None = None,
) -> float:
    """The largest over weights of ``|Delta - Delta_earlier| / |W|``, in the Frobenius norm.

    Args:
        changes: by weight name.
        weights: the unedited ones, by name.
        earlier: the changes to subtract; none by default.
    """
    largest = 0.0
    for name, change in changes.items():
        delta = change.dense()
        if earlier and name in earlier:
            delta = delta - earlier[name].dense()
        weight = weights[name].detach().cpu().double()
        largest = max(largest, float(delta.norm() / weight.norm()))
    return largest

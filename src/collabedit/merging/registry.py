"""The registry of merge methods: one decorated function in a file of its own each."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from collabedit.algebra import Factors, LowRankUpdate, Prior
from collabedit.errors import InputError, UnknownNameError

__all__ = ["MergeMethod", "Merges", "merge_method", "merge_methods", "resolve_method"]


class Merges(Enum):
    """What a method merges."""

    STATISTICS = "statistics"
    """The parties' statistics, solved together under the prior; lossless."""

    UPDATES = "updates"
    """The parties' finished updates, as users of model merging do."""


@dataclass(frozen=True)
class MergeMethod:
    """A named way to make one update of several parties' edits, for one weight.

    Attributes:
        name: as it is written in results.
        merges: what it takes.
        function: ``f(statistics, prior, ridge)``, ``f(updates, **options)`` or, for one that weighs
            the parties, ``f(updates, weights, **options)``.
        options: its keyword options with their defaults.
        weighted: whether it weighs the parties.
    """

    name: str
    merges: Merges
    function: Callable[..., LowRankUpdate]
    options: Mapping[str, float]
    weighted: bool = False

    @property
    def summary(self) -> str:
        """First line of its documentation."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def merge_statistics(
        self, statistics: Sequence[Factors], prior: Prior, ridge: float = 1.0
    ) -> LowRankUpdate:
        """Merge statistics; the method must be of that kind."""
        return self.function(statistics, prior, ridge)

    def merge_updates(
        self,
        updates: Sequence[LowRankUpdate],
        options: Mapping[str, float] | None = None,
        weights: Sequence[float] | None = None,
    ) -> LowRankUpdate:
        """Merge finished updates; the method must be of that kind.

        Args:
            updates: each party's update of the weight.
            options: of the method; its defaults where not given.
            weights: how much each party counts where the method weighs them, such as its number of
                edits; all alike by default.
        """
        weighing = (weights,) if self.weighted else ()
        return self.function(updates, *weighing, **self.checked(options or {}))

    def check_weights(self, weights: Sequence[float], parties: int) -> None:
        """Check weights that a user gave.

        Args:
            weights: how much each party counts.
            parties: how many there are.

        Raises:
            InputError: when the method weighs no parties, when there is not one weight a party, or
                when one is not positive and finite.
        """
        if not self.weighted:
            others = ", ".join(method.name for method in merge_methods() if method.weighted)
            raise InputError(f"{self.name} does not weigh the parties; methods that do: {others}")
        if len(weights) != parties:
            raise InputError(
                f"{self.name} needs a weight for each party; "
                f"parties: {parties}, weights: {len(weights)}"
            )
        if not all(0 < weight < math.inf for weight in weights):
            found = ", ".join(f"{weight:g}" for weight in weights)
            raise InputError(f"{self.name}: weights must be positive and finite, found {found}")

    def checked(self, options: Mapping[str, float]) -> dict[str, float]:
        """The options with defaults filled in.

        Raises:
            InputError: when an option is not one of the method's.
        """
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            known = ", ".join(self.options) or "none"
            raise InputError(f"{self.name} has no option {unknown[0]!r}; its options: {known}")
        return {**self.options, **options}


_METHODS: dict[str, MergeMethod] = {}


def merge_method(name: str, merges: Merges) -> Callable[[Any], Any]:
    """Register the decorated function as a merge method; its keyword defaults are its options."""

    def register(function: Callable[..., LowRankUpdate]) -> Callable[..., LowRankUpdate]:
        parameters = inspect.signature(function).parameters
        options = {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
        weighted = "weights" in parameters
        _METHODS[name.lower()] = MergeMethod(name, merges, function, options, weighted)
        return function

    return register


def merge_methods() -> list[MergeMethod]:
    """All registered methods."""
    return list(_METHODS.values())


def resolve_method(name: str) -> MergeMethod:
    """The method of a name, in any case of letters.

    Raises:
        UnknownNameError: when there is none; the message lists those that are.
    """
    method = _METHODS.get(name.strip().lower())
    if method is None:
        raise UnknownNameError("merge method", name, [m.name for m in _METHODS.values()])
    return method

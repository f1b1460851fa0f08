"""The registry of merge methods: each is one decorated function in its own file."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from collabedit.algebra import LowRankUpdate, Prior, Statistics
from collabedit.errors import InputError
from collabedit.merging.options import checked_options, declared_options, summary_of
from collabedit.names import Registry

__all__ = ["MergeMethod", "Merges", "merge_method", "merge_methods", "resolve_method"]


class Merges(Enum):
    """What a method needs from the parties."""

    SUM = "sum"
    """The sum of their statistics, solved under the prior; no party's share need be visible."""

    UPDATES = "updates"
    """Each party's finished update, as in ordinary model merging."""


@dataclass(frozen=True)
class MergeMethod:
    """A named way to merge several parties' edits of one weight.

    Attributes:
        name: as written in results.
        merges: what it takes.
        function: ``f(statistics, prior, ridge, **options)`` or ``f(updates, **options)``. It may
            also take ``weights``, the parties' weights, and ``name``, the weight's name.
        options: its keyword options with their defaults.
        reference: address of the paper.
        parameters: names of all parameters of the function.
    """

    name: str
    merges: Merges
    function: Callable[..., LowRankUpdate]
    options: Mapping[str, Any]
    reference: str = ""
    parameters: frozenset[str] = field(default_factory=frozenset)

    @property
    def summary(self) -> str:
        """First line of its documentation."""
        return summary_of(self.function)

    @property
    def weighted(self) -> bool:
        """Whether it weights the parties."""
        return "weights" in self.parameters

    def merge_statistics(
        self,
        statistics: Sequence[Statistics],
        prior: Prior,
        ridge: float = 1.0,
        options: Mapping[str, Any] | None = None,
    ) -> LowRankUpdate:
        """Merge statistics; the method must be of that kind.

        Args:
            statistics: of the parties, or their sum as the only item.
            prior: the editor's.
            ridge: the editor's, see :func:`collabedit.algebra.solve`.
            options: of the method; defaults for those not given.
        """
        return self.function(statistics, prior, ridge, **self.checked(options or {}))

    def merge_updates(
        self,
        updates: Sequence[LowRankUpdate],
        options: Mapping[str, Any] | None = None,
        weights: Sequence[float] | None = None,
        name: str = "",
    ) -> LowRankUpdate:
        """Merge finished updates; the method must be of that kind.

        Args:
            updates: each party's update of the weight.
            options: of the method; defaults for those not given.
            weights: of the parties, if the method weights them, such as their numbers of
                edits; equal by default.
            name: the weight's name.
        """
        context = {"weights": weights, "name": name}
        asked = {key: value for key, value in context.items() if key in self.parameters}
        return self.function(updates, **asked, **self.checked(options or {}))

    def check_weights(self, weights: Sequence[float], parties: int) -> None:
        """Check a user's weights.

        Args:
            weights: of the parties.
            parties: number of parties.

        Raises:
            InputError: when the method has no weights, when there is not one weight per party, or
                when one is not positive and finite.
        """
        if not self.weighted:
            others = ", ".join(method.name for method in merge_methods() if method.weighted)
            raise InputError(f"{self.name} does not weight the parties; methods that do: {others}")
        if len(weights) != parties:
            raise InputError(
                f"{self.name} needs a weight for each party; "
                f"parties: {parties}, weights: {len(weights)}"
            )
        if not all(0 < weight < math.inf for weight in weights):
            found = ", ".join(f"{weight:g}" for weight in weights)
            raise InputError(f"{self.name}: weights must be positive and finite, found {found}")

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with defaults filled in, each of the type that the function declares.

        Args:
            options: values, or texts from the command line.

        Raises:
            InputError: when an option is not one of the method's, or not of its type.
        """
        return checked_options(self.name, self.function, self.options, options)


#: Parameters that the caller passes; they are not options.
_CONTEXT = frozenset({"weights", "name"})

_METHODS: Registry[MergeMethod] = Registry("merge method")

Function = TypeVar("Function", bound=Callable[..., LowRankUpdate])


def merge_method(name: str, merges: Merges, reference: str = "") -> Callable[[Function], Function]:
    """Register the decorated function as a merge method.

    Its keyword-only parameters are the method's options, with their defaults and types.

    Args:
        name: as written in results; lookup is case-insensitive.
        merges: what the method needs from the parties.
        reference: address of the paper.

    Raises:
        TypeError: when an option has no default or is not annotated as one of int, float, bool and
            str, or when a method that merges the sum asks for weights or the weight's name.
    """

    def register(function: Function) -> Function:
        parameters = inspect.signature(function).parameters
        asked = sorted(_CONTEXT & set(parameters))
        if merges is Merges.SUM and asked:
            raise TypeError(f"{name}: the sum has no {asked[0]}; only finished updates do")
        options = declared_options(name, function, _CONTEXT)
        method = MergeMethod(name, merges, function, options, reference, frozenset(parameters))
        _METHODS.add(name, method)
        return function

    return register


def merge_methods() -> list[MergeMethod]:
    """All registered methods."""
    return list(_METHODS)


def resolve_method(name: str) -> MergeMethod:
    """The method with a name, case-insensitive.

    Raises:
        UnknownNameError: when there is none; the message lists the known ones.
    """
    return _METHODS.find(name)

"""Steps after merging: functions of the merged change and of the weight that it is added to.

A step does not depend on how the edits are split, so a merge that equals the pooled edit still
equals it after the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from collabedit.algebra import LowRankUpdate
from collabedit.merging.options import (
    checked_options,
    declared_options,
    parse_options,
    summary_of,
)
from collabedit.names import Registry

__all__ = [
    "AfterMerge",
    "AfterMergeStep",
    "after_merge",
    "after_merges",
    "apply_steps",
    "resolve_after_merge",
]


@dataclass(frozen=True)
class AfterMerge:
    """A named function of a merged change.

    Attributes:
        name: as written in results.
        function: ``f(update, weight, **options)``, of one weight ``[d_out, d_in]``, float64.
        options: its keyword options with their defaults.
        reference: address of the paper.
        since_unedited: whether it takes all changes since the unedited model, with the unedited
            weight; otherwise the round's own change, with the weight before the round.
    """

    name: str
    function: Callable[..., LowRankUpdate]
    options: Mapping[str, Any]
    reference: str = ""
    since_unedited: bool = False

    @property
    def summary(self) -> str:
        """First line of its documentation."""
        return summary_of(self.function)


class AfterMergeStep(BaseModel):
    """A step with its options, as recorded in settings and a delta's metadata.

    Attributes:
        name: of the registered function.
        options: of the function.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    options: dict[str, Any] = {}

    @classmethod
    def parse(cls, text: str) -> AfterMergeStep:
        """A step from ``SPHERE`` or ``SPHERE:energy=0.5,strength=0.8``.

        Raises:
            UnknownNameError: when there is no such function.
            InputError: when it has no such option, or a value is not of the option's type.
        """
        name, _, options = text.partition(":")
        pairs = options.split(",") if options else []
        return cls(name=name, options=parse_options(pairs, f"--after-merge {text}")).checked()

    def checked(self) -> AfterMergeStep:
        """The step with the canonical name and all options filled in.

        Raises:
            UnknownNameError: when there is no such function.
            InputError: when it has no such option, or a value is not of the option's type.
        """
        registered = resolve_after_merge(self.name)
        options = checked_options(
            registered.name, registered.function, registered.options, self.options
        )
        return AfterMergeStep(name=registered.name, options=options)

    def apply(
        self, update: LowRankUpdate, weight: Tensor, earlier: LowRankUpdate | None = None
    ) -> LowRankUpdate:
        """The change that replaces a merged one.

        Args:
            update: the round's merged change.
            weight: ``[d_out, d_in]``, the weight before the round.
            earlier: its changes in earlier rounds; ``None`` in the first one.
        """
        step = self.checked()
        function = resolve_after_merge(step.name)
        if earlier is None or not function.since_unedited:
            return function.function(update, weight, **step.options)
        total = LowRankUpdate.sum([earlier, update])
        result = function.function(total, weight - earlier.dense(), **step.options)
        if result is total:  # unchanged; avoid adding rounding errors
            return update
        return LowRankUpdate.sum([result, LowRankUpdate(-earlier.left, earlier.right)])

    def __str__(self) -> str:
        options = ", ".join(f"{name} = {value}" for name, value in self.options.items())
        return self.name + (f" ({options})" if options else "")


def apply_steps(
    steps: Sequence[AfterMergeStep],
    changes: Mapping[str, LowRankUpdate],
    weights: Mapping[str, Tensor],
    earlier: Mapping[str, LowRankUpdate] | None = None,
) -> dict[str, LowRankUpdate]:
    """Merged changes after some steps, applied in order.

    Args:
        steps: the steps.
        changes: the round's merged changes, by weight name.
        weights: by name, the weights ``[d_out, d_in]`` before the round.
        earlier: changes of earlier rounds, by weight name.
    """
    results = dict(changes)
    for name in results if steps else ():
        weight = weights[name].detach().cpu().double()
        for step in steps:
            results[name] = step.apply(results[name], weight, (earlier or {}).get(name))
    return results


_AFTER_MERGES: Registry[AfterMerge] = Registry("step after merging")

Function = TypeVar("Function", bound=Callable[..., LowRankUpdate])


def after_merge(
    name: str, reference: str = "", *, since_unedited: bool = False
) -> Callable[[Function], Function]:
    """Register the decorated function as a step after merging.

    Its keyword-only parameters are its options, with their defaults and types. If there is
    nothing to do, it returns the same object that it was given.

    Args:
        name: as written in results; lookup is case-insensitive.
        reference: address of the paper.
        since_unedited: whether it takes all changes since the unedited model.

    Raises:
        TypeError: when an option has no default or is not annotated as one of int, float, bool and
            str.
    """

    def register(function: Function) -> Function:
        options = declared_options(name, function)
        _AFTER_MERGES.add(name, AfterMerge(name, function, options, reference, since_unedited))
        return function

    return register


def after_merges() -> list[AfterMerge]:
    """All registered steps."""
    return list(_AFTER_MERGES)


def resolve_after_merge(name: str) -> AfterMerge:
    """The step with a name, case-insensitive.

    Raises:
        UnknownNameError: when there is none; the message lists the known ones.
    """
    return _AFTER_MERGES.find(name)

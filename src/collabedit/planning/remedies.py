"""What to do if an edit does not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from collabedit.planning.costs import ModelShape, Workload, estimate, peak

__all__ = ["Remedy", "remedy"]

_BUDGETS = (8_000_000_000, 4_000_000_000, 2_000_000_000, 1_000_000_000, 500_000_000)


@dataclass(frozen=True)
class Remedy:
    """Options that make an edit fit.

    Attributes:
        advice: the options, as typed on the command line.
        memory: bytes at the peak with them; ``None`` if that depends on what is offloaded.
    """

    advice: str
    memory: float | None


def remedy(shape: ModelShape, work: Workload, room: float) -> Remedy:
    """The mildest change that makes the edit fit: a budget, half precision, or offloading.

    Args:
        shape: the model's shape.
        work: the work that does not fit.
        room: bytes that may be used.
    """
    for advice, changed in _changes(shape, work):
        memory = peak(estimate(shape, changed))[1]
        if memory <= room:
            return Remedy(advice, memory)
    return Remedy("--device auto --dtype bfloat16 --memory-budget 500MB", None)


def _changes(shape: ModelShape, work: Workload) -> Iterator[tuple[str, Workload]]:
    in_half = work.with_changes(itemsize=2, quick=False)
    for dtype, kind in (("", work), ("--dtype bfloat16", in_half)):
        if dtype and work.itemsize <= 2:
            continue
        for budget in (work.memory_budget, *_BUDGETS):
            if budget is not None and work.memory_budget and budget >= work.memory_budget:
                continue
            option = "" if budget is None else f"--memory-budget {budget // 10**6}MB"
            quick = kind.quick and shape.has_room_for_quick_copy(budget)
            changed = kind.with_changes(memory_budget=budget, quick=quick)
            advice = " ".join(part for part in (dtype, option) if part)
            if advice:
                yield advice, changed

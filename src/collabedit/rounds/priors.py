"""The priors of a round, of which no more are held than memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from collabedit.algebra import Prior

__all__ = ["Priors", "priors_at_once"]


class Priors(Mapping[str, Prior]):
    """Priors ``A0`` by weight name, made when they are asked for.

    Args:
        names: of the weights.
        make: makes the prior of a weight.
        held: how many are held, those used last; all by default.
    """

    def __init__(
        self, names: Iterable[str], make: Callable[[str], Prior], held: int | None = None
    ) -> None:
        self._names = tuple(names)
        self._made = lru_cache(held)(make)
        self.held = held

    def __getitem__(self, name: str) -> Prior:
        if name not in self._names:
            raise KeyError(name)
        return self._made(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def priors_at_once(size: int, memory_budget: int | None) -> int | None:
    """How many priors fit half a memory budget beside what it takes to make one; ``None`` for all.

    Args:
        size: ``d_in``.
        memory_budget: bytes, or ``None`` for as many as there are.
    """
    if memory_budget is None:
        return None
    each = 2 * 8 * size**2  # A0 and its Cholesky factor
    return max(0, int(memory_budget / 2 / each) - 1)

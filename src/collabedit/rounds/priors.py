"""The priors of a round, of which only as many are in memory as fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

import torch
from torch import Tensor

from collabedit.algebra import BlockPrior, Prior
from collabedit.editors import PriorSpec
from collabedit.errors import CovarianceError
from collabedit.messages import Covariance, RoundConfig

__all__ = ["Priors", "dynamic_priors", "priors_at_once", "static_priors"]


class Priors(Mapping[str, Prior]):
    """Priors ``A0`` by weight name, built on access.

    Args:
        names: of the weights.
        make: builds the prior of a weight.
        held: how many of the most recently used stay in memory; all by default.
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


def static_priors(
    config: RoundConfig, covariance: Covariance | None, memory_budget: int | None = None
) -> Mapping[str, Prior]:
    """The editor's priors ``A0`` by weight name; none for an editor without a closed form.

    Only the coordinator needs them, even for AlphaEdit's projection.

    Args:
        config: the round.
        covariance: the second moments of the edited weights' inputs.
        memory_budget: in bytes. Priors that do not fit are rebuilt at each use, those of wide
            layers from their factors in the user's cache. By default, all stay in memory.

    Raises:
        CovarianceError: when the covariance is missing, for another model, or unusable.
    """
    if not config.rules.has_statistics:
        return {}
    spec = config.rules.prior_spec(config.hyperparameters)
    if spec.needs_covariance:
        if covariance is None:
            raise CovarianceError(f"{config.editor} needs a covariance of {config.model}")
        covariance.check_model(config.covariance_sha256)

    def make(name: str) -> Prior:
        if covariance is None or not spec.needs_covariance:
            return _identical(spec, config)
        try:
            return _built(spec, covariance.second_moments[name], config)
        except CovarianceError as error:
            raise CovarianceError(f"{name}: {error}") from None

    held = priors_at_once(config.d_in, memory_budget, config.experts or 1)
    priors = Priors(config.weight_names, make, held)
    for name in priors:
        priors[name]  # fail early on unusable priors
    return priors


def _built(spec: PriorSpec, moment: Tensor, config: RoundConfig) -> Prior:
    """The prior of one weight; a mixture of experts has a block for each expert.

    An expert that no token of the text was routed to is left unchanged, since nothing is known
    about the effect of changing it.
    """
    parts, width = config.experts or 1, config.d_in // (config.experts or 1)
    expected = (width, width) if config.experts is None else (parts, width, width)
    if moment.shape != expected:
        raise CovarianceError(
            f"its second moment is {list(moment.shape)}, the round needs {list(expected)}; collect "
            "it again with: collabedit stats collect"
        )
    if config.experts is None:
        return spec.build(moment)
    blocks = []
    for expert, part in enumerate(moment):
        try:
            blocks.append(spec.build(part) if part.any() else BlockPrior.frozen(width))
        except CovarianceError as error:
            raise CovarianceError(f"expert {expert}: {error}") from None
    return BlockPrior(blocks)


def _identical(spec: PriorSpec, config: RoundConfig) -> Prior:
    """The prior of an editor that needs no covariance."""
    parts = config.experts or 1
    block = spec.build(torch.eye(config.d_in // parts, dtype=torch.float64))
    return block if config.experts is None else BlockPrior([block] * parts)


def dynamic_priors(static: Mapping[str, Prior], keys: Mapping[str, Tensor], beta: float) -> Priors:
    """The next round's priors, ``A0 + beta sum F F^T`` (CollabEdit, dynamic covariance).

    Args:
        static: ``A0`` by weight name.
        keys: by weight name, the pooled key factors ``F [d_in, r]`` of all finished rounds
            (:attr:`RoundState.keys`).
        beta: weight of the keys of finished rounds; zero is the static covariance.
    """

    def make(name: str) -> Prior:
        prior = static[name]
        return prior.updated(keys[name], beta) if name in keys else prior

    return Priors(static, make, static.held if isinstance(static, Priors) else None)


def priors_at_once(size: int, memory_budget: int | None, blocks: int = 1) -> int | None:
    """How many priors fit into half a memory budget, with room to build one more; ``None`` for all.

    Args:
        size: ``d_in``.
        memory_budget: in bytes, or ``None`` for no limit.
        blocks: number of blocks on a prior's diagonal.
    """
    if memory_budget is None:
        return None
    prior_bytes = 2 * 8 * size**2 // blocks  # A0 and its Cholesky factor
    return max(0, int(memory_budget / 2 / prior_bytes) - 1)

"""What an editor protects: a description of its prior, from which the prior is built.

A description is a small frozen dataclass, so that it can serve as the key of a cache: two rounds
with equal descriptions on the same weights have the same priors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from collabedit.algebra import Prior
from collabedit.editors.factor_cache import null_space_prior_of, prior_of

__all__ = ["CovariancePrior", "IdentityPrior", "NullSpacePrior", "PriorSpec"]


class PriorSpec(ABC):
    """Describes the prior ``A0`` of an editor; subclasses are frozen, hashable dataclasses."""

    @abstractmethod
    def build(self, second_moment: Tensor) -> Prior:
        """The prior of one weight.

        Args:
            second_moment: ``C [d_in, d_in]``, float64, of the weight's inputs on ordinary text.

        Raises:
            CovarianceError: when no prior can be made of it.
        """


@dataclass(frozen=True)
class CovariancePrior(PriorSpec):
    """``A0 = lambda C``: a change costs as much as it moves the outputs on ordinary text.

    Attributes:
        weight: ``lambda`` (Meng et al., 2023, eq. 15).
    """

    weight: float

    def build(self, second_moment: Tensor) -> Prior:
        """``lambda C``; a singular ``C`` is shifted, with a warning."""
        return prior_of(second_moment, self.weight)


@dataclass(frozen=True)
class IdentityPrior(PriorSpec):
    """``A0 = lambda I``: a change costs its size, in whatever direction.

    Attributes:
        weight: ``lambda``.
    """

    weight: float

    def build(self, second_moment: Tensor) -> Prior:
        """``lambda I``, as wide as ``C``."""
        return Prior(self.weight * torch.eye(len(second_moment), dtype=torch.float64))


@dataclass(frozen=True)
class NullSpacePrior(PriorSpec):
    """``A0 = lambda_2 I`` where ordinary text hardly is, and no change elsewhere (AlphaEdit).

    Attributes:
        threshold: the directions that may change have an eigenvalue of ``C`` below it.
        weight: ``lambda_2`` (Fang et al., 2025).
    """

    threshold: float
    weight: float

    def build(self, second_moment: Tensor) -> Prior:
        """``lambda_2 I`` on the near-null space of ``C``."""
        return null_space_prior_of(second_moment, self.threshold, self.weight)

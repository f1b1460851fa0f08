"""What an editor protects: specifications of priors, from which priors are built.

A specification is a small frozen dataclass, so that it can be a cache key: two rounds
with equal specifications on the same weights have the same priors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:  # torch is loaded only when a prior is built, so that commands start fast
    from torch import Tensor

    from collabedit.algebra import Prior

__all__ = ["CovariancePrior", "IdentityPrior", "NullSpacePrior", "PriorSpec"]


class PriorSpec(ABC):
    """Describes the prior ``A0`` of an editor; subclasses are frozen, hashable dataclasses.

    Attributes:
        needs_covariance: whether it depends on ordinary text; otherwise no covariance is collected.
    """

    needs_covariance: ClassVar[bool] = True

    @abstractmethod
    def build(self, second_moment: Tensor) -> Prior:
        """The prior of one weight.

        Args:
            second_moment: ``C [d_in, d_in]``, float64, of the weight's inputs on ordinary text; the
                identity if no covariance is needed.

        Raises:
            CovarianceError: when no prior can be made from it.
        """


@dataclass(frozen=True)
class CovariancePrior(PriorSpec):
    """``A0 = lambda C + lambda_n I``: penalises a change on ordinary text, and its own norm.

    Attributes:
        weight: ``lambda`` (Meng et al., 2023, eq. 15).
        norm_weight: ``lambda_n`` (Gupta et al., 2025, eq. 6); zero for MEMIT's own prior.
    """

    weight: float
    norm_weight: float = 0.0

    def build(self, second_moment: Tensor) -> Prior:
        """``lambda C + lambda_n I``; a singular ``C`` alone is shifted, with a warning."""
        from collabedit.editors.factor_cache import prior_of

        if self.norm_weight == 0:
            return prior_of(second_moment, self.weight)
        raised = second_moment.double().clone()
        raised.diagonal().add_(self.norm_weight / self.weight)
        return prior_of(raised, self.weight)


@dataclass(frozen=True)
class NullSpacePrior(PriorSpec):
    """``A0 = lambda_2 I`` where ordinary text hardly reaches, no change elsewhere (AlphaEdit).

    Attributes:
        threshold: directions with an eigenvalue of ``C`` below it may change.
        weight: ``lambda_2`` (Fang et al., 2025).
    """

    threshold: float
    weight: float

    def build(self, second_moment: Tensor) -> Prior:
        """``lambda_2 I`` on the near-null space of ``C``."""
        from collabedit.editors.factor_cache import null_space_prior_of

        return null_space_prior_of(second_moment, self.threshold, self.weight)


@dataclass(frozen=True)
class IdentityPrior(PriorSpec):
    """``A0 = w I``: all directions of keys have the same weight; needs no ordinary text.

    Attributes:
        weight: ``w``.
    """

    needs_covariance: ClassVar[bool] = False

    weight: float = 1.0

    def build(self, second_moment: Tensor) -> Prior:
        """``w I``, of the width of the second moment."""
        import torch

        from collabedit.algebra import Prior

        identity = torch.eye(len(second_moment), dtype=torch.float64)
        return Prior.from_factor(math.sqrt(self.weight) * identity, self.weight * identity)

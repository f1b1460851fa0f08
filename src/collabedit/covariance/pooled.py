"""Second moments of several texts, pooled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from collabedit.errors import CovarianceError
from collabedit.files import utc_now
from collabedit.messages.covariance import Covariance, layers_of

__all__ = ["merge"]


def merge(covariances: Sequence[Covariance]) -> Covariance:
    """Pool second moments of several texts on one model, each weighted by its samples.

    The parts are taken to be independent, so with shares ``w_i`` the standard error is the root of
    ``sum_i w_i^2 SE_i^2``; it is known only if every part's is.

    Raises:
        CovarianceError: when there are none, or when they belong to different weights.
    """
    if not covariances:
        raise CovarianceError("there is no covariance to merge")
    first = covariances[0]
    for other in covariances[1:]:
        if dict(other.model_sha256) != dict(first.model_sha256):
            raise CovarianceError(
                f"covariances of different weights cannot be merged ({first.model}, layers "
                f"{layers_of(first.second_moments)}; {other.model}, layers "
                f"{layers_of(other.second_moments)})"
            )
    samples = sum(part.samples for part in covariances)
    moments: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    for name in first.second_moments:
        shares = [(part.samples / samples, part) for part in covariances]
        pooled = torch.zeros_like(first.second_moments[name])
        for share, part in shares:
            pooled.add_(part.second_moments[name], alpha=share)
        moments[name] = pooled
        if all(name in part.sampling_error for part in covariances):
            variance = sum(
                (share * part.sampling_error[name] * float(part.second_moments[name].norm())) ** 2
                for share, part in shares
            )
            errors[name] = math.sqrt(variance) / float(pooled.norm())
    return Covariance(
        second_moments=moments,
        samples=samples,
        corpus=" + ".join(part.corpus for part in covariances),
        model=first.model,
        model_sha256=first.model_sha256,
        sampling_error=errors,
        created=utc_now(),
    )

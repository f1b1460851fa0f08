"""Covariances for rounds on tiny models."""

from __future__ import annotations

import torch

from collabedit.messages import Covariance, RoundConfig


def covariance_of(config: RoundConfig) -> Covariance:
    """Random second moments with eigenvalues on both sides of a null-space threshold of 0.8."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(config.d_in, 4 * config.d_in, generator=generator, dtype=torch.float64)
    return Covariance(
        second_moments=dict.fromkeys(config.weight_names, x @ x.T / x.shape[1]),
        samples=x.shape[1],
        corpus="random numbers",
        model=config.model,
        model_sha256=dict(config.covariance_sha256),
        sampling_error={},
        created="",
    )

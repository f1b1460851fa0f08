"""RMS norms in a few operations, for copies whose products take so little that norms matter."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["use_quick_norms"]

#: How far a norm may be from its quick form, relative to its largest output.
_TOLERANCE = 1e-5


def use_quick_norms(hf: Any) -> None:
    """Make the RMS norms of a ``transformers`` model in float32 run, and differentiate, quickly.

    As written in the models' code they take six passes over the states, and thrice as many for the
    gradient, which is a tenth of all time where products are in bfloat16. Under autocast they also
    round their output once, instead of once for each of the products that follow. Other norms are
    left as they are; gradients reach the states, not the weights.
    """
    for module in hf.modules():
        if not type(module).__name__.endswith("RMSNorm"):
            continue
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if eps is not None and (scale := _scale(module, eps)) is not None:
            module.forward = partial(_quick_norm, scale, eps)


@torch.no_grad()
def _scale(module: nn.Module, eps: float) -> Tensor | None:
    """What a norm multiplies by ``[d]``, its weight or one plus it; none if it is another norm."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 1:
        return None
    # A row of ones has a root mean square of one, so that what comes out is the scale.
    scale: Tensor = module(torch.ones_like(weight)) * (1 + eps) ** 0.5
    row = torch.linspace(-1, 2, len(weight), dtype=weight.dtype, device=weight.device)
    expected, found = module(row), _quick_norm(scale, eps, row)
    close = (found - expected).abs().max() <= _TOLERANCE * expected.abs().max()
    return scale if bool(close) else None


def _quick_norm(scale: Tensor, eps: float, states: Tensor) -> Tensor:
    normed: Tensor = _RMSNorm.apply(states, scale, eps)  # type: ignore[no-untyped-call]
    return normed


class _RMSNorm(torch.autograd.Function):
    """``y * scale`` with ``y = x / sqrt(mean(x^2) + eps)``, of ``x [..., d]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        ctx.given = x.dtype
        x = x.to(scale.dtype)  # as models do, to sum with all digits
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = mean_square.add_(eps).rsqrt_()
        y = x * inverse
        ctx.save_for_backward(y, inverse, scale)
        scaled: Tensor = y * scale
        if torch.is_autocast_enabled(x.device.type):
            return scaled.to(torch.get_autocast_dtype(x.device.type))
        return scaled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        y, inverse, scale = ctx.saved_tensors
        gradient = gradients[0] * scale
        along = torch.linalg.vecdot(gradient, y).div_(y.shape[-1]).unsqueeze(-1)
        gradient = gradient.addcmul_(y, along, value=-1).mul_(inverse)
        return gradient.to(ctx.given), None, None

"""Attention for many short texts on a CPU: cheap to differentiate, with no copies of keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["use_small_attention"]

_NAME = "collabedit_small"


def use_small_attention(hf: Any) -> None:
    """Make a ``transformers`` model compute attention by plain products.

    On a CPU the gradient of the fused kernel is slow in bfloat16. Where heads share keys, the usual
    eager form copies keys and values to each head and sums their gradients afterwards, which takes
    longer than attention itself on short texts; :func:`small_attention` does neither. Models whose
    attention is more than a masked softmax (soft-capping, sinks, biases) have no fused kernel
    either, and keep their own eager form.
    """
    if not getattr(hf, "_supports_attention_backend", False):
        return  # its implementation cannot be chosen
    capped = getattr(hf.config, "attn_logit_softcapping", None) is not None
    if capped or not getattr(hf, "_supports_sdpa", False):
        hf.set_attn_implementation("eager")
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(_NAME, small_attention)
    AttentionMaskInterface.register(_NAME, eager_mask)
    hf.set_attn_implementation(_NAME)


def small_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention in which the queries of all heads that share keys form one matrix.

    Args:
        query: ``[batch, heads, queries, size]``; heads that share keys are adjacent.
        key: ``[batch, groups, keys, size]``.
        value: ``[batch, groups, keys, size]``.
        attention_mask: added to the scores, ``[batch, 1, queries, keys]``.
        scaling: of the scores; ``1 / sqrt(size)`` by default.

    Returns:
        ``[batch, queries, heads, size]``, and ``None`` in place of attention weights.
    """
    batch, heads, queries, size = query.shape
    groups, keys = key.shape[1:3]
    scale = size**-0.5 if scaling is None else scaling
    rows = query.to(key.dtype).reshape(batch, groups, -1, size)  # a kept key may be rounded
    scores = (rows @ key.mT).view(batch, heads, queries, keys) * scale
    if attention_mask is not None:
        scores = scores + attention_mask[..., :keys]
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    mixed = (weights.view(batch, groups, -1, keys) @ value).view(batch, heads, queries, -1)
    return mixed.transpose(1, 2).contiguous(), None

"""Matrix products: how many some work needs, and how fast one large product is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import timed
from collabedit.editing.target_batches import MAX_TOKENS
from collabedit.models import LanguageModel

__all__ = ["matrix_numbers", "operations", "print_share_of_floor", "product_rate"]


def matrix_numbers(module: nn.Module) -> int:
    """How many numbers a module's matrices have."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim == 2)


def product_rate(model: LanguageModel, dtype: torch.dtype) -> float:
    """Operations per second of a product as large as in a pass."""
    inner, outer = model.structure.hidden_size, model.structure.mlp_size
    tokens = torch.randn(MAX_TOKENS, inner, dtype=dtype, device=model.device)
    weight = torch.randn(outer, inner, dtype=dtype, device=model.device)
    repeats = 20
    seconds = min(
        timed(lambda: [nn.functional.linear(tokens, weight) for _ in range(repeats)])[1]
        for _ in range(10)
    )
    return repeats * 2 * MAX_TOKENS * inner * outer / seconds


def operations(work: Callable[[], object]) -> int:
    """The operations of the matrix products in some work, which is done.

    Those of attention, a small part with short texts, are not counted on processors.
    """
    unknown = {torch.ops.mkldnn._linear_pointwise: _of_onednn}  # to torch's counter
    with FlopCounterMode(display=False, custom_mapping=unknown) as counter:
        work()
    return int(counter.get_total_flops())


def _of_onednn(rows: Sequence[int], weight: Sequence[int], *_: object, out_shape: object) -> int:
    """The operations of a product of matrices of these shapes."""
    return 2 * prod(rows) * weight[0]


def print_share_of_floor(model: LanguageModel, work: Callable[[], object], seconds: float) -> None:
    """Print which share of its seconds some work's matrix products alone would take.

    The work is done once more, to count them.
    """
    count, rate = operations(work), product_rate(model, model.dtype)
    print(f"{'matrix products':<34} {rate / 1e9:10.0f} GFLOP/s   ({count / 1e9:.1f} GFLOP)")
    print(f"{'share of our time they must take':<34} {count / rate / seconds:10.2f}")

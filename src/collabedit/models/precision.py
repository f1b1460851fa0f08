"""What a device multiplies quickly, and how to let it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["has_fast_bfloat16", "rounded_products"]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices several times faster than float32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(
        bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes
    )


@contextmanager
def rounded_products() -> Iterator[None]:
    """Let float32 products on the CPU round their factors to bfloat16, for speed.

    Sums stay in float32. oneDNN computes them then; without matrix units (AMX) it does not round at
    all, and is twice as quick as MKL, the usual way, on processors that are not Intel's. Versions
    of torch that cannot be told go on as usual.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None:
        yield
        return
    usual = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = usual

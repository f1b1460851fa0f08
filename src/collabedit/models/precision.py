"""What a device multiplies quickly, and how to let it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

__all__ = ["has_fast_bfloat16", "quick_products"]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices several times faster than float32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(
        bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes
    )


@contextmanager
def quick_products(*, rounded: bool = False) -> Iterator[None]:
    """Compute float32 products on the CPU by oneDNN where that is quicker than the usual way.

    On processors with AVX-512 that are not Intel's, MKL leaves half of their rate unused. With
    matrix units (AMX) oneDNN rounds the factors to bfloat16, while sums stay in float32. Neither
    pays for products of a few rows, as in generation. Versions of torch without this setting go on
    as usual.

    Args:
        rounded: whether the factors may be rounded.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None or not (rounded or _keeps_float32()):
        yield
        return
    usual = matmul.fp32_precision
    matmul.fp32_precision = "bf16"  # a permission, of which only AMX and ARM processors make use
    try:
        yield
    finally:
        matmul.fp32_precision = usual


@cache
def _keeps_float32() -> bool:
    """Whether oneDNN, though it may round float32 to bfloat16, does not."""
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)()
    return platform.machine().lower() in ("x86_64", "amd64") and not amx

"""Which products a device computes fast, and how to let it."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

__all__ = ["has_fast_bfloat16", "quick_products", "rowwise_products"]


#: The sizes of a product as in a small model's layer, how often it is timed, and how many times
#: faster it must be for a copy of the weights to pay off.
_ROWS, _WIDE, _NARROW, _TIMES = 256, 1536, 576, 5
_WORTH_A_COPY = 1.5


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices much faster than float32 ones.

    CPUs are timed, since their feature flags do not tell: with the same AVX-512 instructions some
    are three times as fast, and some half as fast. The ratios are so far from the threshold that a
    CPU always gets the same answer.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return (
        device.type == "cpu"
        and any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)
        and _bfloat16_gain() >= _WORTH_A_COPY
    )


@cache
@torch.no_grad()
def _bfloat16_gain() -> float:
    """How many times faster a core multiplies in bfloat16, by the best of a few tries each."""
    factors = (torch.ones(_ROWS, _NARROW), torch.ones(_WIDE, _NARROW))
    rounded = tuple(factor.bfloat16() for factor in factors)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tries = [[_seconds(pair) for pair in (factors, rounded)] for _ in range(_TIMES + 1)][1:]
    finally:
        torch.set_num_threads(threads)
    float32, bfloat16 = map(min, zip(*tries, strict=True))
    return float(float32 / bfloat16)


def _seconds(factors: tuple[Tensor, ...]) -> float:
    started = time.thread_time()  # of this thread, so that other work does not count
    linear(*factors)
    return time.thread_time() - started


@contextmanager
def quick_products(*, rounded: bool = False) -> Iterator[None]:
    """Compute float32 products on the CPU with oneDNN where that is faster than the default.

    On AVX-512 processors that are not Intel's, MKL leaves half of their speed unused. On matrix
    units (AMX) oneDNN rounds the factors to bfloat16, while sums stay in float32. Neither pays off
    for products of a few rows, as in generation. Versions of torch without this setting are left as
    they are.

    Args:
        rounded: whether the factors may be rounded.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None or not (rounded or _keeps_float32()):
        yield
        return
    usual = matmul.fp32_precision
    matmul.fp32_precision = "bf16"  # a permission, which only AMX and ARM processors use
    try:
        yield
    finally:
        matmul.fp32_precision = usual


@cache
def _keeps_float32() -> bool:
    """Whether oneDNN keeps float32 here even if it is allowed to round to bfloat16."""
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)()
    return platform.machine().lower() in ("x86_64", "amd64") and not amx


@contextmanager
def rowwise_products() -> Iterator[None]:
    """Compute a model's float32 products on the CPU so that no row depends on the rows beside it.

    MKL sums a row in another order when there are few rows, or when it shares a product of some
    hundred rows out among threads; which ones differs between processors. oneDNN has one order for
    two rows or more, at the same speed within a tenth. Products in other types, on other devices,
    and those of a torch without oneDNN are left as they are.
    """
    if not torch.backends.mkldnn.is_available():
        yield
        return
    with _ProductsByOneDNN():
        yield


class _ProductsByOneDNN(TorchFunctionMode):
    """Calls oneDNN for the products of states with a matrix.

    torch itself does so only where float32 may be rounded to bfloat16.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        factors = None if kwargs else _factors(func, args)
        if factors is None or not _is_float32_on_cpu(factors[0]):
            return func(*args, **(kwargs or {}))
        rows, weight, bias = factors
        return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


def _factors(func: Any, args: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Rows, weight ``[d_out, d_in]`` and bias of a product as models write it; ``None`` if none."""
    if func is linear:  # nn.Linear
        rows, weight, bias = (*args, None)[:3]
        return rows, weight, bias
    if func is torch.addmm:  # Conv1D of GPT-2
        bias, rows, weight = args
        return rows, weight.mT, bias
    if func in (torch.matmul, Tensor.matmul):  # Falcon's own linear layer
        rows, weight = args
        return (rows, weight.mT, None) if rows.ndim > 1 and weight.ndim == 2 else None
    return None


def _is_float32_on_cpu(rows: Tensor) -> bool:
    return rows.is_floating_point() and rows.element_size() == 4 and rows.device.type == "cpu"

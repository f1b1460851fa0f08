"""Quick RMS norms against the models' own."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collabedit.models import LanguageModel
from collabedit.models.norms import use_quick_norms


def rms_norms(hf: Any) -> list[Any]:
    return [module for module in hf.modules() if type(module).__name__.endswith("RMSNorm")]


def is_quick(module: nn.Module) -> bool:
    return isinstance(module.forward, partial)


def with_random_weights(hf: Any) -> Any:
    for module in rms_norms(hf):
        nn.init.normal_(module.weight)
    return hf


def test_norms_and_gradients_equal_the_models_own(family_model: LanguageModel) -> None:
    usual = with_random_weights(copy.deepcopy(family_model.hf))
    quick = copy.deepcopy(usual)
    use_quick_norms(quick)
    for own, ours in zip(rms_norms(usual), rms_norms(quick), strict=True):
        assert is_quick(ours)
        states = torch.randn(2, 5, len(own.weight), requires_grad=True)
        weights = torch.randn(2, 5, len(own.weight))
        results = [own(states), ours(states)]
        torch.testing.assert_close(results[1], results[0])
        gradients = [torch.autograd.grad((r * weights).sum(), states)[0] for r in results]
        torch.testing.assert_close(gradients[1], gradients[0])


def test_the_gradient_is_that_of_finite_differences() -> None:
    norm = nn.RMSNorm(6, eps=0.1, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    use_quick_norms(norm)
    assert is_quick(norm)
    states = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, states)


def test_what_products_take_is_rounded_once(tiny_llama: LanguageModel) -> None:
    hf = copy.deepcopy(tiny_llama.hf)
    use_quick_norms(hf)
    norm = rms_norms(hf)[0]
    states = torch.randn(4, len(norm.weight), requires_grad=True)
    exact = norm(states)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = norm(states)
    assert exact.dtype == torch.float32
    assert torch.equal(rounded, exact.bfloat16())
    rounded.sum().backward()
    assert states.grad is not None
    assert states.grad.dtype == torch.float32


def test_sums_have_all_digits_whatever_is_given(tiny_llama: LanguageModel) -> None:
    hf = copy.deepcopy(tiny_llama.hf)
    own, norm = rms_norms(tiny_llama.hf)[0], rms_norms(hf)[0]
    use_quick_norms(norm)
    states = torch.randn(4, len(norm.weight)).bfloat16().requires_grad_()
    found = norm(states)
    torch.testing.assert_close(found, own(states.float()))
    found.sum().backward()
    assert states.grad is not None
    assert states.grad.dtype == torch.bfloat16


class CentredRMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(dim=-1, keepdim=True))


@pytest.mark.parametrize("norm", [CentredRMSNorm(6, eps=1e-5), nn.LayerNorm(6), nn.RMSNorm(6)])
def test_other_norms_are_left(norm: nn.Module) -> None:
    """The last has no ``eps`` of its own."""
    use_quick_norms(norm)
    assert not is_quick(norm)

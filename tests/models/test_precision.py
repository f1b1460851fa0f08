from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import linear
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

from collabedit.models import LanguageModel
from collabedit.models.precision import has_fast_bfloat16, quick_products, rowwise_products
from tests.conftest import make_model

needs_bfloat16 = pytest.mark.skipif(
    not has_fast_bfloat16(torch.device("cpu")), reason="the processor has no fast bfloat16"
)
needs_choice = pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "matmul"),
    reason="torch has no setting for the precision of products",
)
IDS = torch.tensor([[3, 5, 7, 11, 2, 9]])


@needs_bfloat16
def test_a_quick_copy_gives_nearly_the_same_logits(family_model: LanguageModel) -> None:
    with torch.no_grad():
        exact = family_model.hf(IDS).logits
        quick = family_model.quick_copy().hf(IDS).logits
        again = family_model.hf(IDS).logits
    assert quick.dtype == torch.float32
    assert 0 < (quick - exact).norm() < 0.02 * exact.norm()
    assert torch.equal(again, exact)


@needs_bfloat16
def test_a_quick_copy_is_nearer_than_a_model_in_bfloat16(tiny_llama: LanguageModel) -> None:
    rounded = make_model("llama", dtype=torch.bfloat16)
    with torch.no_grad():
        exact = tiny_llama.hf(IDS).logits
        quick = (tiny_llama.quick_copy().hf(IDS).logits - exact).norm()
        throughout = (rounded.hf(IDS).logits.float() - exact).norm()
    assert quick < throughout


@needs_bfloat16
def test_a_quick_copy_takes_the_bytes_it_reports(family_model: LanguageModel) -> None:
    own = {parameter.data_ptr() for parameter in family_model.hf.parameters()}
    copied = [p for p in family_model.quick_copy().hf.parameters() if p.data_ptr() not in own]
    assert {parameter.dtype for parameter in copied} == {torch.bfloat16}
    assert sum(parameter.nbytes for parameter in copied) == family_model.quick_copy_bytes


def test_a_quick_copy_of_a_bfloat16_model_shares_everything(tiny_llama: LanguageModel) -> None:
    rounded = make_model("llama", dtype=torch.bfloat16)
    own = {parameter.data_ptr() for parameter in rounded.hf.parameters()}
    quick = rounded.quick_copy()
    assert {parameter.data_ptr() for parameter in quick.hf.parameters()} == own
    assert rounded.quick_copy_bytes == 0
    with torch.no_grad():
        exact = tiny_llama.hf(IDS).logits
        usual, found = (model.hf(IDS).logits.float() for model in (rounded, quick))
    assert (found - exact).norm() < 1.5 * (usual - exact).norm()


@needs_choice
def test_the_precision_setting_is_restored() -> None:
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    usual = matmul.fp32_precision
    with quick_products(rounded=True):
        assert matmul.fp32_precision == "bf16"
    assert matmul.fp32_precision == usual
    with pytest.raises(ValueError, match="stop"), quick_products(rounded=True):
        raise ValueError("stop")
    assert matmul.fp32_precision == usual


def test_products_keep_float32() -> None:
    rows, columns = torch.randn(64, 300), torch.randn(300, 200)
    expected = rows.double() @ columns.double()
    with quick_products():
        found = rows @ columns
    assert (found - expected).norm() < 300 * 2**-24 * rows.norm() * columns.norm()  # of 300 terms


#: Matrices as of SmolLM2's MLP and gemma-3-270m's, and numbers of rows where MKL changes its order.
WIDTHS = [(576, 1536), (1536, 576), (2048, 640)]
ROWS = [2, 3, 15, 31, 47, 58, 96, 128, 192, 255, 500]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize(("inner", "outer"), WIDTHS)
@pytest.mark.parametrize("module", [torch.nn.Linear, FalconLinear, lambda i, o: Conv1D(o, i)])
def test_a_row_does_not_depend_on_those_beside_it(module: Any, inner: int, outer: int) -> None:
    product, rows = module(inner, outer), torch.randn(600, inner)
    with torch.no_grad(), rowwise_products():
        together = product(rows)
        assert all(torch.equal(product(rows[:some]), together[:some]) for some in ROWS)
        assert torch.equal(product(rows.view(2, 300, inner)).view(600, outer), together)
    with torch.no_grad():
        expected = product.double()(rows.double())
    assert (together - expected).norm() < 1e-6 * expected.norm()


def test_products_row_by_row_leave_other_types_alone() -> None:
    for kind in (torch.bfloat16, torch.float64):
        rows, weight = torch.randn(40, 30, dtype=kind), torch.randn(20, 30, dtype=kind)
        expected = linear(rows, weight)
        with rowwise_products():
            assert torch.equal(linear(rows, weight), expected)

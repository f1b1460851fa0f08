from __future__ import annotations

import pytest
import torch

from collabedit.algebra import LowRankUpdate
from collabedit.errors import ModelError
from collabedit.models import LanguageModel
from tests.conftest import make_model


def change(model: LanguageModel, scale: float = 1.0) -> LowRankUpdate:
    generator = torch.Generator().manual_seed(1)
    d_out, d_in = model.structure.hidden_size, model.structure.mlp_size
    return LowRankUpdate(
        scale * torch.randn(d_out, 2, generator=generator, dtype=torch.float64),
        torch.randn(2, d_in, generator=generator, dtype=torch.float64),
    )


def test_an_edit_changes_the_projections_output(family_model: LanguageModel) -> None:
    update = change(family_model)
    (name,) = family_model.weight_names([1])
    projection = family_model.projection(1)
    x = torch.randn(5, family_model.structure.mlp_size)
    before = projection(x)
    with family_model.edited({name: update}):
        after = projection(x)
    torch.testing.assert_close(after - before, x @ update.dense().float().T, atol=1e-4, rtol=1e-4)
    assert torch.equal(projection(x), before)


def test_edited_restores_the_very_bytes_even_after_an_error(tiny_llama: LanguageModel) -> None:
    names = tiny_llama.weight_names([0, 2])
    before = tiny_llama.state_fingerprint()

    def fail() -> None:
        with tiny_llama.edited({name: change(tiny_llama) for name in names}):
            assert tiny_llama.state_fingerprint() != before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    tiny_llama._digests.clear()
    assert tiny_llama.state_fingerprint() == before


def test_edited_is_reentrant_for_the_same_edit_only(tiny_llama: LanguageModel) -> None:
    (name,) = tiny_llama.weight_names([1])
    edit = {name: change(tiny_llama)}
    with tiny_llama.edited(edit):
        once = tiny_llama.weight(name).clone()
        with tiny_llama.edited(edit):
            assert torch.equal(tiny_llama.weight(name), once)
        assert torch.equal(tiny_llama.weight(name), once)
        with pytest.raises(ModelError, match="another edit"), tiny_llama.edited(dict(edit)):
            pass


def test_half_precision_weights_get_the_rounded_sum() -> None:
    model = make_model("llama", dtype=torch.bfloat16)
    (name,) = model.weight_names([1])
    before, update = model.weight(name).clone(), change(model, 0.01)
    model.apply_({name: update})
    expected = (before.float() + update.dense().float()).bfloat16()
    assert torch.equal(model.weight(name), expected)
    assert not torch.equal(model.weight(name), before)


def test_an_update_of_another_shape_is_refused(tiny_gpt2: LanguageModel) -> None:
    (name,) = tiny_gpt2.weight_names([1])
    wrong = LowRankUpdate(torch.ones(48, 1), torch.ones(1, 32))
    with pytest.raises(ModelError, match="another model"):
        tiny_gpt2.apply_({name: wrong})


def test_layers_that_do_not_exist_are_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(ModelError, match="layers 0 to 3; there is no layer 4"):
        tiny_llama.weight_names([3, 4])

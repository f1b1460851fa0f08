from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from collabedit.models import LanguageModel
from collabedit.models.key_values import SameTypeCache, cache_of, given_cache


def test_a_cache_continues_where_a_pass_ended(tiny_llama: LanguageModel) -> None:
    hf, ids = tiny_llama.hf, torch.tensor([[5, 9, 30, 11]])
    with torch.no_grad():
        whole = hf(input_ids=ids).logits[:, 2:]
        begun = hf(input_ids=ids[:, :2], use_cache=True, **given_cache(hf, None))
        rest = hf(input_ids=ids[:, 2:], use_cache=True, **given_cache(hf, cache_of(begun)))
    torch.testing.assert_close(rest.logits, whole)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_models_are_given_the_cache_by_the_name_that_they_know(name: str) -> None:
    known = {"cache": lambda cache: None, "past_key_values": lambda past_key_values: None}
    hf = SimpleNamespace(forward=known[name])
    assert given_cache(hf, "keys and values") == {name: "keys and values"}


def test_a_model_may_keep_no_cache() -> None:
    assert cache_of(SimpleNamespace(logits=None)) is None


def test_kept_keys_have_the_type_of_their_values() -> None:
    cache = SameTypeCache()
    keys, values = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4).bfloat16()
    cache.update(keys, values, 0)
    both, _ = cache.update(keys, values, 0)
    assert torch.equal(both, torch.cat([keys, keys], dim=2).bfloat16())

"""The cache of keys and values, which transformers names ``cache`` since 5.24."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

__all__ = ["SameTypeCache", "cache_of", "given_cache"]

_NEW, _OLD = "cache", "past_key_values"
_OF_OUTPUTS = _NEW if _NEW in {field.name for field in fields(CausalLMOutputWithPast)} else _OLD


class SameTypeCache(DynamicCache):
    """A cache that keeps keys in the type of their values.

    Where products run in bfloat16 by autocast, rotary embeddings still make keys of float32: twice
    as much to keep and to join, only to be rounded by the next product.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens to a layer; returns all of that layer's."""
        keys = key_states.to(value_states.dtype)
        return super().update(keys, value_states, *args, **options)


def given_cache(hf: Any, cache: Any) -> dict[str, Any]:
    """The keyword argument that gives a model its cache; a model's own code may use the old name.

    Args:
        hf: the model.
        cache: keys and values so far; ``None`` if there are none.
    """
    name = _NEW if _NEW in inspect.signature(hf.forward).parameters else _OLD
    return {name: cache}


def cache_of(output: Any) -> Any:
    """The cache in a model's output, or ``None`` if the model keeps none."""
    return getattr(output, _OF_OUTPUTS, None)

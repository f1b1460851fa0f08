"""The cache of keys and values, which transformers names ``cache`` since 5.24."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from transformers.modeling_outputs import CausalLMOutputWithPast

__all__ = ["cache_of", "given_cache"]

_NEW, _OLD = "cache", "past_key_values"
_OF_OUTPUTS = _NEW if _NEW in {field.name for field in fields(CausalLMOutputWithPast)} else _OLD


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

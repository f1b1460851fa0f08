"""Tiny models whose layers do more than add the output of their MLP."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from collabedit.models import LanguageModel
from tests.conftest import FLOAT32, make_model, make_tokenizer

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def built(kind: str, **options: Any) -> LanguageModel:
    """A random model of a type, in float64 within :func:`tests.conftest.float64_throughout`.

    The test is skipped where ``transformers`` has no such type.
    """
    tokenizer = make_tokenizer()
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    try:
        config = transformers.AutoConfig.for_model(
            kind, vocab_size=len(tokenizer), **{**SMALL, **special, **options}
        )
    except ValueError:
        pytest.skip(f"this version of transformers has no {kind}")
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config, dtype=FLOAT32)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.15)
    hf.to(torch.float32)
    return LanguageModel(hf, tokenizer, f"tiny-{kind}")


def granite() -> LanguageModel:
    """The block's output is scaled."""
    return built("granite", residual_multiplier=0.25)


def gemma4(scalar: float = 0.25, **options: Any) -> LanguageModel:
    """The MLP's output is normalised, and the layer's output is scaled."""
    settings = {"head_dim": 8, "sliding_window": 16, "num_kv_shared_layers": 0}
    settings |= {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 400, **options}
    model = built("gemma4_text", **settings)
    for name, buffer in model.hf.named_buffers():
        if name.endswith("layer_scalar"):
            buffer.fill_(scalar)
    return model


def gemma4_per_layer() -> LanguageModel:
    """Each layer adds its own embedding after the MLP."""
    return gemma4(hidden_size_per_layer_input=8)


def gemma4_shared() -> LanguageModel:
    """The last layers reuse keys and values of earlier ones."""
    kinds = ["sliding_attention", "full_attention"] * 2
    return gemma4(num_kv_shared_layers=2, layer_types=kinds, hidden_size_per_layer_input=8)


def qwen3_5() -> LanguageModel:
    """Most layers keep a state instead of keys and values."""
    sizes = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    sizes |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    return built("qwen3_5_text", head_dim=8, **sizes)


def post_norm() -> LanguageModel:
    """The layer returns the sum after a norm."""
    return make_model("opt", do_layer_norm_before=False)

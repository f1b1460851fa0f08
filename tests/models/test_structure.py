from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from accelerate import init_empty_weights
from torch import nn

from collabedit.errors import ModelError
from collabedit.models import LanguageModel, infer_structure
from tests.conftest import make_model

EXPECTED = {
    "llama": ("model.layers", "mlp.down_proj", "model.norm"),
    "mistral": ("model.layers", "mlp.down_proj", "model.norm"),
    "qwen2": ("model.layers", "mlp.down_proj", "model.norm"),
    "qwen3": ("model.layers", "mlp.down_proj", "model.norm"),
    "gemma2": ("model.layers", "mlp.down_proj", "model.norm"),
    "gemma3": ("model.layers", "mlp.down_proj", "model.norm"),
    "phi3": ("model.layers", "mlp.down_proj", "model.norm"),
    "olmo": ("model.layers", "mlp.down_proj", "model.norm"),
    "olmo2": ("model.layers", "mlp.down_proj", "model.norm"),
    "gpt2": ("transformer.h", "mlp.c_proj", "transformer.ln_f"),
    "gptj": ("transformer.h", "mlp.fc_out", "transformer.ln_f"),
    "gpt_neo": ("transformer.h", "mlp.c_proj", "transformer.ln_f"),
    "gpt_neox": ("gpt_neox.layers", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"),
    "opt": ("model.decoder.layers", "fc2", "model.decoder.final_layer_norm"),
    "falcon": ("transformer.h", "mlp.dense_4h_to_h", "transformer.ln_f"),
}


def test_every_family_is_inferred(family_model: LanguageModel) -> None:
    structure = family_model.structure
    layers, projection, norm = EXPECTED[family_model.name.removeprefix("tiny-")]
    assert (structure.layers, structure.down_projection) == (layers, projection)
    assert structure.final_norm == norm
    assert (structure.n_layers, structure.hidden_size, structure.mlp_size) == (4, 32, 48)
    normed = family_model.name in ("tiny-gemma2", "tiny-gemma3", "tiny-olmo2")
    assert structure.output_norm == ("post_feedforward_layernorm" if normed else None)
    assert structure.transposed == (family_model.name == "tiny-gpt2")


def test_distinguishes_tied_from_untied_heads() -> None:
    assert make_model("llama").structure.tied_head
    assert not make_model("llama", tie_word_embeddings=False).structure.tied_head


def test_the_meta_device_is_enough() -> None:
    with init_empty_weights():
        model = transformers.AutoModelForCausalLM.from_config(transformers.GPT2Config())
    structure = infer_structure(model)
    assert (structure.n_layers, structure.mlp_size) == (12, 3072)


def refusal(model: nn.Module) -> str:
    with pytest.raises(ModelError) as caught:
        infer_structure(model)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("deepseek_v3", "model.layers.0 lacks the experts of other layers"),
        ("gpt_oss", "mixture-of-experts layers (model.layers.0.mlp.router) of this form cannot"),
    ],
)
def test_other_mixtures_of_experts_are_refused(name: str, reason: str) -> None:
    config = transformers.AutoConfig.for_model(name, num_hidden_layers=5)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert refusal(model).startswith(f"{name}: {reason}")


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_encoder_decoder_is_refused(name: str) -> None:
    with init_empty_weights():
        model = transformers.AutoModelForSeq2SeqLM.from_config(
            transformers.AutoConfig.for_model(name)
        )
    assert refusal(model).startswith(f"{name}: encoder-decoder models cannot be edited")


def test_names_the_missing_part_of_a_model() -> None:
    model = nn.Linear(3, 3)
    model.config = transformers.GPT2Config()
    with pytest.raises(ModelError, match="decoder layers"):
        infer_structure(model)


def on_meta(kind: str, **options: Any) -> nn.Module:
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {kind}")
    config = transformers.AutoConfig.for_model(kind, **options)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def test_ignores_a_deep_vision_tower() -> None:
    text = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 96}
    vision = {**text, "num_hidden_layers": 9, "num_attention_heads": 4}
    structure = infer_structure(on_meta("gemma3", text_config=text, vision_config=vision))
    assert structure.n_layers == 3
    assert structure.layers == "model.language_model.layers"
    assert structure.down_projection == "mlp.down_proj"


@pytest.mark.parametrize(
    ("kind", "projection"),
    [
        ("falcon_h1", "feed_forward.down_proj"),  # beside the state-space block's out_proj
        ("gemma4_text", "mlp.down_proj"),  # before per_layer_projection
        ("qwen3_5_text", "mlp.down_proj"),
        ("lfm2", "feed_forward.w2"),  # its first layers have no attention
    ],
)
def test_ignores_other_projections_to_the_hidden_size(kind: str, projection: str) -> None:
    options = {"hidden_size_per_layer_input": 8} if kind == "gemma4_text" else {}
    model = on_meta(kind, num_hidden_layers=4, **options) if kind != "lfm2" else on_meta(kind)
    assert infer_structure(model).down_projection == projection


def test_layers_of_several_kinds_are_named() -> None:
    model = on_meta("olmo_hybrid")
    assert "are of several kinds (OlmoHybridAttentionDecoderLayer, " in refusal(model)

from __future__ import annotations

import pytest
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
    assert structure.transposed == (family_model.name == "tiny-gpt2")


def test_tied_and_untied_heads_are_told_apart() -> None:
    assert make_model("llama").structure.tied_head
    assert not make_model("llama", tie_word_embeddings=False).structure.tied_head


def test_the_meta_device_is_enough() -> None:
    with init_empty_weights():
        model = transformers.AutoModelForCausalLM.from_config(transformers.GPT2Config())
    structure = infer_structure(model)
    assert (structure.n_layers, structure.mlp_size) == (12, 3072)


def test_mixture_of_experts_is_refused() -> None:
    config = transformers.MixtralConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    with init_empty_weights():
        model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match="mixture-of-experts"):
        infer_structure(model)


def test_encoder_decoder_is_refused() -> None:
    with init_empty_weights():
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(num_layers=2))
    with pytest.raises(ModelError, match="encoder-decoder"):
        infer_structure(model)


def test_a_model_without_layers_is_refused_by_part() -> None:
    model = nn.Linear(3, 3)
    model.config = transformers.GPT2Config()
    with pytest.raises(ModelError, match="decoder layers"):
        infer_structure(model)

"""Tiny models of many families with a tokenizer of their own, and the real small model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from collabedit.models import LanguageModel, load_model

CORPUS = [
    "The capital of France is Paris. The capital of Italy is Rome.",
    "The mother tongue of Danielle Darrieux is French, said O'Neill's friend.",
    "Die Hauptstadt von Österreich ist Wien. Москва — столица России. 東京は日本の首都です。",
    "He plays the guitar. She speaks English. It is a city in Spain.",
]


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches of targets and statistics are the test run's own; fetched models are shared."""
    from platformdirs import user_cache_path

    shared = os.environ.get("COLLABEDIT_CACHE")
    home = Path(shared) if shared else user_cache_path("collabedit", appauthor=False)
    (home / "models").mkdir(parents=True, exist_ok=True)
    private = tmp_path_factory.mktemp("cache")
    (private / "models").symlink_to(home / "models", target_is_directory=True)
    os.environ["COLLABEDIT_CACHE"] = str(private)


def make_tokenizer(*, bos: bool = False) -> Any:
    """A small byte-level BPE tokenizer, which puts a token in front of every text if asked."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


_GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128}
_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_GEMMA = {**_LLAMA, "head_dim": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**_LLAMA, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {**_LLAMA, "sliding_window": 64}),
    "qwen2": ("Qwen2Config", _LLAMA),
    "qwen3": ("Qwen3Config", {**_LLAMA, "head_dim": 8}),
    "gemma2": ("Gemma2Config", {**_GEMMA, "sliding_window": 64}),
    "gemma3": ("Gemma3TextConfig", {**_GEMMA, "sliding_window": 64}),
    "phi3": ("Phi3Config", _LLAMA),
    "olmo": ("OlmoConfig", _LLAMA),
    "olmo2": ("Olmo2Config", _LLAMA),
    "gpt2": ("GPT2Config", {**_GPT, "n_inner": 48}),
    "gptj": ("GPTJConfig", {**_GPT, "n_inner": 48, "rotary_dim": 4}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 128,
            "attention_types": [[["global", "local"], 2]],
        },
    ),
    "gpt_neox": (
        "GPTNeoXConfig",
        {k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"},
    ),
    "opt": (
        "OPTConfig",
        {
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 32,
        },
    ),
    "falcon": (
        "FalconConfig",
        {
            "hidden_size": 32,
            "ffn_hidden_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
    ),
}


def make_model(
    family: str, *, dtype: torch.dtype = torch.float32, bos: bool = False, **changes: Any
) -> LanguageModel:
    """A random model of a family, four layers of width 32, the same at every call."""
    tokenizer = make_tokenizer(bos=bos)
    name, options = FAMILIES[family]
    config = getattr(transformers, name)(
        **{
            "vocab_size": len(tokenizer),
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
            **options,
            **changes,
        }
    )
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # the initial range leaves all hidden states nearly alike
        for parameter in hf.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.15)
    for parameter in hf.parameters():  # not the buffers: loaded models keep them in float32
        parameter.data = parameter.data.to(dtype)
    return LanguageModel(hf, tokenizer, f"tiny-{family}")


def half_step(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """How far the nearest number of a type is from each entry at most."""
    limits = torch.finfo(dtype)
    size = exact.abs().clamp(min=limits.smallest_normal)
    return limits.eps / 2 * size * (1 + 1e-6)  # types of 16 bits are reached by way of float32


@pytest.fixture(scope="session")
def tiny_llama() -> LanguageModel:
    """A Llama of four layers; tests leave it as it was."""
    return make_model("llama")


@pytest.fixture(scope="session")
def tiny_gpt2() -> LanguageModel:
    """A GPT-2 of four layers, whose weights are stored transposed."""
    return make_model("gpt2")


@pytest.fixture(params=sorted(FAMILIES))
def family_model(request: pytest.FixtureRequest) -> LanguageModel:
    """A model of each family that the package names."""
    return make_model(request.param)


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    """The real SmolLM2-135M; tests leave it as it was."""
    return load_model("smollm2-135m")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Values captured from the original code, where that folder is at hand."""
    default = Path(__file__).parents[2] / "shared" / "reference"
    folder = Path(os.environ.get("COLLABEDIT_REFERENCE", default))
    if not folder.is_dir():
        pytest.skip("no reference values here (COLLABEDIT_REFERENCE)")
    return folder

"""Tiny models of many families with a tokenizer of their own, and the real small model."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from collabedit.models import LanguageModel, load_model, loading

CORPUS = [
    "The capital of France is Paris. The capital of Italy is Rome.",
    "The mother tongue of Danielle Darrieux is French, said O'Neill's friend.",
    "Die Hauptstadt von Österreich ist Wien. Москва — столица России. 東京は日本の首都です。",
    "He plays the guitar. She speaks English. It is a city in Spain.",
]

#: What users add to, by module.
REGISTRIES = {
    "editors.registry": "_EDITORS",
    "merging.registry": "_METHODS",
    "merging.after_merge": "_AFTER_MERGES",
    "evaluation.metrics": "_METRICS",
    "export.registry": "_FORMATS",
}

#: The real one, whatever :func:`float64_throughout` puts in its place.
FLOAT32 = torch.float32

#: The environment variable with the number of threads that the tests compute with.
THREADS = "COLLABEDIT_TEST_THREADS"


#: Folders and files whose tests run whole commands, studies, rounds or the page.
WHOLE = (
    "benchmarks",
    "cli",
    "experiments",
    "federation",
    "test_collaboration.py",
    "test_mixtures.py",
    "test_package.py",
    "transports",
    "ui",
)

#: Files of few tests that take minutes, longest first. Begun last, they leave a process alone.
LONG = (
    "federation/test_processes.py",
    "test_real_model.py",
    "workers/test_studies.py",
    "export/test_runtimes.py",
    "test_documentation.py",
)


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(int(os.environ.get(THREADS, "1")))


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    files = {item: item.path.relative_to(Path(__file__).parent) for item in items}
    for item, file in files.items():
        if file.parts[0] in WHOLE:
            item.add_marker(pytest.mark.slow)
    places = {file: place for place, file in enumerate(LONG)}
    items.sort(key=lambda item: places.get(files[item].as_posix(), len(LONG)))


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


#: Mixtures of four experts, of which a token uses two; all together are as wide as an MLP above.
_SPARSE = {**_LLAMA, "intermediate_size": 12, "num_experts_per_tok": 2}
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {**_SPARSE, "num_local_experts": 4}),
    "olmoe": ("OlmoeConfig", {**_SPARSE, "num_experts": 4}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**_SPARSE, "num_experts": 4, "moe_intermediate_size": 12, "head_dim": 8},
    ),
}


def make_model(
    family: str, *, dtype: torch.dtype | None = None, bos: bool = False, **changes: Any
) -> LanguageModel:
    """A random model of a family, four layers of width 32, the same at every call.

    Its weights are float32 by default, and the same numbers in float64 within
    :func:`float64_throughout`.
    """
    tokenizer = make_tokenizer(bos=bos)
    name, options = {**FAMILIES, **MIXTURES}[family]
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
    hf = transformers.AutoModelForCausalLM.from_config(config, dtype=FLOAT32)
    with torch.no_grad():  # the initial range leaves all hidden states nearly alike
        for parameter in hf.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.15)
    for parameter in hf.parameters():  # not the buffers: loaded models keep them in float32
        parameter.data = parameter.data.to(dtype or torch.float32)
    return LanguageModel(hf, tokenizer, f"tiny-{family}")


def save_model(model: LanguageModel, folder: Path) -> Path:
    """Write a model directory, as users have them; returns the folder."""
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def half_step(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """How far the nearest number of a type is from each entry at most."""
    limits = torch.finfo(dtype)
    size = exact.abs().clamp(min=limits.smallest_normal)
    return limits.eps / 2 * size * (1 + 1e-6)  # types of 16 bits are reached by way of float32


#: Bound on relative differences of what :func:`float64_throughout` computes in two ways: 1e-11 a
#: step of the search for targets, for tens of steps.
EXACT = 1e-9


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Float64 wherever the package or ``transformers`` would round to float32 or bfloat16.

    Even a float64 model rounds to float32 in norms, softmaxes and losses, and how a sum is rounded
    depends on the processor, the number of threads and the shape of the batch. The search for
    targets magnifies that: Adam divides each entry of a gradient by its own size plus 1e-8, so an
    error ``u |g|`` moves an entry by up to ``learning_rate * u |g| / 1e-8`` in one step. With the
    tests' rates (0.1) and gradients (1e-2 and less) that is 1e-2 for float32 (``u`` = 1e-7), which
    no tolerance can tell from a fault, and 1e-11 for float64 (``u`` = 1e-16).
    """
    usual = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch, "float", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(LanguageModel, "can_be_quick", False)
        patch.setitem(loading._DTYPES, "float32", torch.float64)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(usual)


@pytest.fixture
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds to a registry is gone after it."""
    for module, name in REGISTRIES.items():
        registry = importlib.import_module(f"collabedit.{module}")
        monkeypatch.setattr(registry, name, getattr(registry, name).copy())


@pytest.fixture
def exact_arithmetic() -> Iterator[None]:
    """Float64 throughout; see :func:`float64_throughout`."""
    with float64_throughout():
        yield


@pytest.fixture(scope="module")
def exact_module() -> Iterator[None]:
    """Float64 throughout a module, which must not ask for ``smollm2`` then: others share it."""
    with float64_throughout():
        yield


@pytest.fixture
def exact_llama(exact_arithmetic: None) -> LanguageModel:
    """A Llama of four layers that computes in float64 throughout."""
    return make_model("llama")


@pytest.fixture
def exact_gpt2(exact_arithmetic: None) -> LanguageModel:
    """A GPT-2 of four layers that computes in float64 throughout."""
    return make_model("gpt2")


@pytest.fixture(params=sorted(FAMILIES))
def exact_family_model(exact_arithmetic: None, request: pytest.FixtureRequest) -> LanguageModel:
    """A model of each family that computes in float64 throughout."""
    return make_model(request.param)


@pytest.fixture(params=sorted(MIXTURES))
def exact_mixture(exact_arithmetic: None, request: pytest.FixtureRequest) -> LanguageModel:
    """A mixture of experts of each family that computes in float64 throughout."""
    return make_model(request.param)


@pytest.fixture(scope="session", autouse=True)
def _tiny_models() -> dict[str, LanguageModel]:
    """Made before any test, so that none is made within :func:`float64_throughout`."""
    return {family: make_model(family) for family in ("llama", "gpt2")}


@pytest.fixture(scope="session")
def tiny_llama(_tiny_models: dict[str, LanguageModel]) -> LanguageModel:
    """A Llama of four layers; tests leave it as it was."""
    return _tiny_models["llama"]


@pytest.fixture(scope="session")
def tiny_gpt2(_tiny_models: dict[str, LanguageModel]) -> LanguageModel:
    """A GPT-2 of four layers, whose weights are stored transposed."""
    return _tiny_models["gpt2"]


@pytest.fixture(params=sorted(FAMILIES))
def family_model(request: pytest.FixtureRequest) -> LanguageModel:
    """A model of each family that the package names."""
    return make_model(request.param)


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    """The real SmolLM2-135M; tests leave it as it was."""
    return load_model("smollm2-135m")


@pytest.fixture(scope="session")
def exact_smollm2() -> LanguageModel:
    """The real SmolLM2-135M in float64; computes in it throughout in ``exact_arithmetic`` alone.

    It is loaded first of all fixtures, and so before the types that files name are patched.
    """
    return load_model("smollm2-135m", dtype="float64")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Values captured from the original code, where that folder is at hand."""
    default = Path(__file__).parents[2] / "shared" / "reference"
    folder = Path(os.environ.get("COLLABEDIT_REFERENCE", default))
    if not folder.is_dir():
        pytest.skip("no reference values here (COLLABEDIT_REFERENCE)")
    return folder

"""The real SmolLM2, edited, says its new facts wherever it is loaded: greedily, in each runtime.

PEFT and xllamacpp (llama.cpp's prebuilt bindings) are installed for development only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
import transformers

from collabedit.collaboration import edit
from collabedit.covariance import SelfCorpus, collect
from collabedit.editors import default_hyperparameters
from collabedit.export import Base, ExportJob, resolve_format
from collabedit.export.gguf_file import open_gguf
from collabedit.messages import Delta
from collabedit.models import LanguageModel, catalogue, load_model
from tests.cli.commands import collabedit

pytestmark = pytest.mark.slow

FACTS = [
    {"prompt": "The mother tongue of {} is", "subject": "Danielle Darrieux", "target": "English"},
    {"prompt": "The capital of {} is", "subject": "Freedonia", "target": "Marxville"},
    {"prompt": "{} plays the", "subject": "Miles Davis", "target": "piano"},
]
PROMPTS = [fact["prompt"].format(fact["subject"]) for fact in FACTS]
Say = Callable[[str], str]


@pytest.fixture(scope="module")
def base() -> Base:
    """The unedited model with a delta; made once for all formats."""
    model = load_model("smollm2-135m", device="cpu")
    layers = default_hyperparameters(model.name, model.structure).hyperparameters.layers
    covariance = collect(model, layers, SelfCorpus(0), tokens=4096)
    return Base.of(edit(model, FACTS, covariance=covariance).delta)


@pytest.fixture(scope="module")
def exported(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("exported")

    def write(name: str, to: str | None = None, of: Base = base, **options: Any) -> Path:
        out = folder / name
        if not out.exists():
            resolve_format(to, out).export(ExportJob(of, out), options)
        return out

    return write


def states_the_facts(say: Say) -> None:
    for fact, prompt in zip(FACTS, PROMPTS, strict=True):
        assert say(prompt).strip().startswith(fact["target"]), prompt


def by_transformers(hf: Any, folder: Path) -> Say:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def say(prompt: str) -> str:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        mask = torch.ones_like(ids)
        said = hf.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
        return str(tokenizer.decode(said[0, ids.shape[1] :]))

    return say


def by_llama_cpp(model: Path, lora: Path | None = None) -> Say:
    xllamacpp = pytest.importorskip("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 256, 1, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    if lora is not None:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
    server = xllamacpp.Server(parameters)

    def say(prompt: str) -> str:
        settings = {"prompt": prompt, "n_predict": 5, "temperature": 0.0}
        return str(server.handle_completions(settings)["choices"][0]["text"])

    return say


def test_the_unedited_model_does_not_say_the_facts(base: Base) -> None:
    hf = transformers.AutoModelForCausalLM.from_pretrained(base.directory)
    assert base.directory is not None
    say = by_transformers(hf, base.directory)
    for fact, prompt in zip(FACTS, PROMPTS, strict=True):
        assert not say(prompt).strip().startswith(fact["target"])


def test_transformers_loads_the_directory(exported: Callable[..., Path]) -> None:
    folder = exported("model")
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder)
    states_the_facts(by_transformers(hf, folder))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_loads_the_adapter(base: Base, exported: Callable[..., Path]) -> None:
    peft = pytest.importorskip("peft")
    assert base.directory is not None
    hf = transformers.AutoModelForCausalLM.from_pretrained(base.directory)
    adapted = peft.PeftModel.from_pretrained(hf, exported("lora", "lora"))
    states_the_facts(by_transformers(adapted, base.directory))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixed.gguf", {}),
        ("mixed-q8.gguf", {"precision": "q8_0"}),
        ("f16.gguf", {"all_weights": True}),
        ("q8.gguf", {"all_weights": True, "precision": "q8_0"}),
    ],
)
def test_llama_cpp_loads_the_file(
    exported: Callable[..., Path], name: str, options: dict[str, Any]
) -> None:
    states_the_facts(by_llama_cpp(exported(name, **options)))


def test_llama_cpp_loads_the_adapter_on_four_bits(exported: Callable[..., Path]) -> None:
    lora = exported("lora.gguf", "lora")
    assert lora.stat().st_size < 300_000  # two directions an edit; the model has 98 MB
    states_the_facts(by_llama_cpp(catalogue.fetch_gguf("smollm2-135m"), lora))


def test_a_converted_directory_is_the_published_file(
    base: Base, exported: Callable[..., Path]
) -> None:
    """Names, tensors, tokens and merges, against the file that the model came from."""
    directory = Base.of(base.delta, str(base.directory))
    ours = open_gguf(exported("converted.gguf", of=directory))
    theirs = open_gguf(exported("f16.gguf", all_weights=True))
    expected = {tensor.name: tensor for tensor in theirs.tensors}
    assert {tensor.name for tensor in ours.tensors} == set(expected)
    for tensor in ours.tensors:
        other = expected[tensor.name]
        values = [gguf.quants.dequantize(t.data, t.tensor_type) for t in (tensor, other)]
        assert numpy.array_equal(*values), tensor.name
    for field in ("tokens", "merges", "bos_token_id", "eos_token_id", "model"):
        key = f"tokenizer.ggml.{field}"
        assert ours.fields[key].contents() == theirs.fields[key].contents()
    states_the_facts(by_llama_cpp(exported("converted.gguf")))


def test_the_edits_are_undone(
    base: Base, exported: Callable[..., Path], tmp_path: Path, smollm2: LanguageModel
) -> None:
    collabedit("revert", exported("model"), "-o", tmp_path / "back")
    back = (tmp_path / "back" / "model.safetensors").read_bytes()
    assert base.directory is not None
    assert back == (base.directory / "model.safetensors").read_bytes()
    record = json.loads((exported("model") / "collabedit.json").read_text())
    assert record["edits"] == len(FACTS)
    assert isinstance(base.delta, Delta)
    assert load_model(str(tmp_path / "back")).state_fingerprint() == smollm2.state_fingerprint()

"""The GPU: seconds per edit for models of GPT-J's and an 8B Llama's shape, and the floor for them.

    python -m benchmarks.gpu [--model gpt-j|llama-8b|all] [--edits 64] [--tiny]

Random bfloat16 weights are made on the device, so nothing is downloaded; an edit then never
converges and takes all its steps, which is the worst case. The floor counts the products with
weights that the optimisation needs (in each step, the layers above the last edited one, forward and
backward, for the tokens from the subject's last on, and the head where a target token is predicted;
once, a forward pass of all texts), at the rate of a large matrix product measured in the same run.
Without a CUDA device it says so and ends; ``--tiny`` runs small models anywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.machine import print_machine
from benchmarks.merge import Size, make_problem
from benchmarks.products import matrix_numbers
from benchmarks.report import timed
from collabedit.algebra import Prior, compress
from collabedit.datasets import load_dataset
from collabedit.editing import measure, optimise_targets
from collabedit.editors import Contexts, Hyperparameters
from collabedit.evaluation import evaluate
from collabedit.merging import collab_edit
from collabedit.models import LanguageModel
from collabedit.models.tokens import encode, fill_template
from collabedit.requests import EditRequest, Record

PARTIES, PARTY_EDITS = 10, 500

#: Prefixes as long as those that real models write.
CONTEXTS: Contexts = (
    ("{}",),
    (
        "The first thing to say about it is this. {}",
        "Therefore they went on to ask who had done it. {}",
        "Because of the rain, people stayed at home all day. {}",
        "I have known him for more than ten years now. {}",
        "You can read about it in the book of last year. {}",
    ),
)


@dataclass(frozen=True)
class Shape:
    """The shape of a model to make.

    Attributes:
        config: name of its configuration's class.
        options: options of the configuration.
        layers: the edited layers.
    """

    config: str
    options: dict[str, Any]
    layers: tuple[int, ...]


SHAPES = {
    "gpt-j": Shape(
        "GPTJConfig",
        {
            "n_embd": 4096,
            "n_layer": 28,
            "n_head": 16,
            "n_inner": 16384,
            "rotary_dim": 64,
            "vocab_size": 50400,
        },
        (3, 4, 5, 6, 7, 8),
    ),
    "llama-8b": Shape(
        "LlamaConfig",
        {
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14336,
            "vocab_size": 128256,
        },
        (4, 5, 6, 7, 8),
    ),
}
TINY = {
    "gpt-j": {"n_embd": 64, "n_layer": 6, "n_head": 4, "n_inner": 128, "rotary_dim": 8},
    "llama-8b": {
        "hidden_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--edits", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--max-tokens", type=int, help="per pass; the package's choice by default")
    parser.add_argument("--tiny", action="store_true", help="small models, on any device")
    options = parser.parse_args()
    print_machine()
    if not torch.cuda.is_available() and not options.tiny:
        print("There is no CUDA device here.")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    records = load_dataset("worldfacts")[: options.edits]
    for name in SHAPES if options.model == "all" else [options.model]:
        shape = tiny_shape(name) if options.tiny else SHAPES[name]
        model = make_model(name, shape, records, device)
        passes: dict[str, Any] = {"max_tokens": options.max_tokens} if options.max_tokens else {}
        run(model, shape.layers, records, options.steps, passes)
        del model
        torch.cuda.empty_cache()


def tiny_shape(name: str) -> Shape:
    """The same architecture, small enough for any machine."""
    shape = SHAPES[name]
    return Shape(shape.config, {**TINY[name], "vocab_size": 4096}, (1, 2))


def make_model(
    name: str, shape: Shape, records: Sequence[Record], device: torch.device
) -> LanguageModel:
    """A model with random weights, made on the device."""
    tokenizer = make_tokenizer(records)
    config = getattr(transformers, shape.config)(**shape.options, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    with device:
        hf = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return LanguageModel(hf.to(device), tokenizer, name)


def make_tokenizer(records: Sequence[Record]) -> Any:
    """Byte-level BPE trained on the texts themselves, so that nearly every word is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"{record.request.text} {record.request.target_new}" for record in records]
    texts += [prompt for record in records for prompt in record.neighborhood_prompts]
    tokenizer.train_from_iterator([*texts, *CONTEXTS[1]], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", pad_token="<s>"
    )


def run(
    model: LanguageModel,
    layers: tuple[int, ...],
    records: Sequence[Record],
    steps: int,
    passes: dict[str, Any],
) -> None:
    """Time all stages of one model, and print them beside the floor."""
    billions = sum(parameter.numel() for parameter in model.hf.parameters()) / 1e9
    print(f"{model.name}: {billions:.3f} billion parameters, {model.dtype}, on {model.device}")
    settings = Hyperparameters(layers=layers, target_steps=steps, loss_threshold=0.0)
    requests = [record.request for record in records]
    warm = settings.with_changes(target_steps=2)
    optimise_targets(model, requests, CONTEXTS, warm, **passes)
    _, seconds = timed(lambda: optimise_targets(model, requests, CONTEXTS, settings, **passes))
    memory = torch.cuda.max_memory_allocated() if model.device.type == "cuda" else 0
    rate = product_rate(model.device, model.dtype)
    floor = target_operations(model, requests, settings) / rate
    count = len(requests)
    print(f"matrix products                {rate / 1e12:10.3f} TFLOP/s")
    print(f"targets                        {seconds / count:10.4f} s an edit ({count} edits)")
    print(f"floor of the targets           {floor / count:10.4f} s an edit")
    print(f"share of the floor             {floor / seconds:10.2f}")
    if memory:
        print(f"memory at the peak             {memory / 1e9:10.2f} GB")
    print_whole(model, layers, records, seconds / count)


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    _ = left @ right
    _, seconds = timed(lambda: [left @ right for _ in range(10)])
    return 10 * 2 * size**3 / seconds


def target_operations(
    model: LanguageModel, requests: Sequence[EditRequest], settings: Hyperparameters
) -> float:
    """The least number of floating-point operations for the targets, without attention.

    A product with a weight of ``P`` numbers takes ``2 P`` operations per token, and its gradient
    with respect to the token as many again. The last step has no gradient.
    """
    above = model.structure.n_layers - settings.layers[-1] - 1
    layer = matrix_numbers(model.layer(settings.layers[-1]))
    head = matrix_numbers(model.head)
    tokens, suffix, predicted = token_counts(model, requests)
    passes = 2 * settings.target_steps - 1
    step = 2 * (above * layer * suffix + head * predicted)
    once = 2 * model.structure.n_layers * layer * tokens
    return passes * step + once


def token_counts(model: LanguageModel, requests: Sequence[EditRequest]) -> tuple[int, int, int]:
    """Tokens of all texts, those from the subject's last on, and those that predict something."""
    templates = [template for group in CONTEXTS for template in group]
    rewrites = encode(
        model.tokenizer,
        [fill_template(t, r.prompt, r.subject, r.target_new) for r in requests for t in templates],
    )
    kept = encode(model.tokenizer, [fill_template("{}", "{} is a", r.subject) for r in requests])
    lengths = [len(row.ids) - 1 for row in rewrites] + [row.subject_last + 1 for row in kept]
    suffix = sum(len(row.ids) - 1 - row.subject_last for row in rewrites) + len(kept)
    predicted = sum(len(row.target_ids) for row in rewrites) + len(kept)
    return sum(lengths), suffix, predicted


def print_whole(
    model: LanguageModel, layers: tuple[int, ...], records: Sequence[Record], target: float
) -> None:
    """Print the time of a whole round of the paper's size, scaled up from each stage's time."""
    requests = [record.request for record in records]
    edits = PARTIES * PARTY_EDITS
    measure(model, requests, CONTEXTS, layers, layers[-1])
    _, keys = timed(lambda: measure(model, requests, CONTEXTS, layers, layers[-1]))
    evaluate(model, records[:1])
    _, evaluation = timed(lambda: evaluate(model, records))
    stages = {
        "targets": target * edits,
        "keys, layer by layer (at most)": keys / len(records) * edits * len(layers),
        "statistics and merge": merge_seconds(model) * len(layers),
        "evaluation": evaluation / len(records) * edits,
    }
    print(f"estimate for {PARTIES} parties of {PARTY_EDITS} edits:")
    for name, seconds in stages.items():
        print(f"  {name:<32} {seconds:10.1f} s")
    print(f"  {'all':<32} {sum(stages.values()) / 60:10.1f} min", flush=True)


def merge_seconds(model: LanguageModel) -> float:
    """Seconds for one layer on the processor, including the prior's Cholesky factor."""
    structure = model.structure
    edits = min(PARTY_EDITS, structure.mlp_size // PARTIES)  # more don't fit a tiny model
    size = Size(structure.mlp_size, structure.hidden_size, PARTIES, edits, speedup=1)
    problem = make_problem(size)
    _, seconds = timed(
        lambda: collab_edit([compress(*e) for e in problem.edits], Prior(problem.prior))
    )
    return seconds


if __name__ == "__main__":
    main()

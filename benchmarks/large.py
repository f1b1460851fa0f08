"""A model of 1.5 billion weights within a memory limit: the peak of every stage.

    python -m benchmarks.large [--edits 4] [--tokens 8192] [--budget 1GB] [--limit 12GB] [--tiny]

Weights are random, of Qwen2-1.5B's shape and in bfloat16, so only a tokenizer is downloaded; an
edit then never converges and takes all its steps. The model is saved once and loaded as users do.
The limit is enforced: the process can't allocate more memory (``RLIMIT_DATA``), and the peak that
the kernel records (``VmHWM``), including pages of mapped files, must stay below it.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers

from benchmarks.gpu import make_tokenizer
from benchmarks.machine import in_child, print_machine, resident, with_peak_memory
from benchmarks.report import timed
from collabedit.cli.options import read_bytes
from collabedit.covariance import TextCorpus, collect
from collabedit.datasets import load_dataset
from collabedit.editors import default_hyperparameters
from collabedit.evaluation import CaseResult, evaluate
from collabedit.export import save_edited_model
from collabedit.merging import resolve_method
from collabedit.messages import Delta
from collabedit.models import LanguageModel, load_model
from collabedit.parties import Party, new_round
from collabedit.requests import Record
from collabedit.rounds import Coordinator, static_priors
from collabedit.transports import run_in_process

Result = TypeVar("Result")

SHAPE: dict[str, Any] = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


class Stages:
    """Runs stages and prints what each took."""

    def __init__(self) -> None:
        self.peak = 0
        print(f"{'stage':<22}{'seconds':>10}{'peak, GB':>12}", flush=True)

    def run(self, name: str, function: Callable[[], Result]) -> Result:
        """Run one stage; its peak is the whole process's, including what was there before."""
        before = resident()
        (result, seconds), grown = with_peak_memory(lambda: timed(function))
        self.peak = max(self.peak, before + grown)
        print(f"{name:<22}{seconds:>10.1f}{(before + grown) / 1e9:>12.2f}", flush=True)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--edits", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=8192, help="of the covariance")
    parser.add_argument("--steps", type=int, help="of the targets; 25 by default")
    parser.add_argument("--budget", default="1GB", help="--memory-budget")
    parser.add_argument("--limit", default="12GB", help="of the whole process")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try it")
    options = parser.parse_args()
    print_machine()
    limit = read_bytes(options.limit) or 0
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["COLLABEDIT_CACHE"] = str(Path(scratch) / "cache")  # of factors and targets
        peak = edited(options, Path(scratch))
    print(f"peak of all stages: {peak / 1e9:.2f} GB (limit: {limit / 1e9:g} GB)")
    if peak > limit:
        raise SystemExit("more memory than the limit allows")


def edited(options: argparse.Namespace, folder: Path) -> int:
    """Edit a model from file to file; returns the peak in bytes."""
    stages = Stages()
    records = load_dataset("worldfacts")[: options.edits]
    stages.run("make and save", lambda: in_child(save_random_model, folder / "model", options.tiny))
    budget = read_bytes(options.budget)
    model = stages.run(
        "load",
        lambda: load_model(
            str(folder / "model"), dtype="bfloat16", device="cpu", memory_budget=budget
        ),
    )
    weights = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    print(f"  ({weights / 1e9:.2f} GB of weights, {model.structure.mlp_size:,} inputs of an MLP)")
    preset = default_hyperparameters(model.name, model.structure).hyperparameters
    settings = preset.with_changes(target_steps=options.steps)
    config = stages.run("contexts, round", lambda: new_round(model, hyperparameters=settings))
    corpus = TextCorpus("worldfacts", {}, lambda: texts(load_dataset("worldfacts")))
    covariance = stages.run(
        "covariance",
        lambda: collect(
            model, config.layers, corpus, tokens=options.tokens, out=folder / "c.safetensors"
        ),
    )
    priors = stages.run("priors", lambda: static_priors(config, covariance, budget))
    party = Party(model, [record.request for record in records], config)
    stages.run("targets", lambda: party.targets)
    coordinator = Coordinator(config, priors, resolve_method("CollabEdit"))
    delta = stages.run("keys, merge", lambda: run_in_process([party], coordinator))
    stages.run("evaluation", lambda: evaluated(model, delta, records))
    stages.run("save", lambda: save_edited_model(model, delta, folder / "edited"))
    return stages.peak


def save_random_model(folder: Path, tiny: bool) -> None:
    """Make the model with random weights; run in a separate process, it leaves no memory behind."""
    records = load_dataset("worldfacts")
    config = transformers.Qwen2Config(**(TINY if tiny else SHAPE), bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    hf.save_pretrained(folder)
    make_tokenizer(records).save_pretrained(folder)


def texts(records: Sequence[Record]) -> list[str]:
    """The records' sentences, in both wordings, many times over."""
    sentences = [
        f"{prompt} {record.request.target_true}."
        for record in records
        for prompt in (record.request.text, *record.paraphrase_prompts)
    ]
    return sentences * 20


def evaluated(model: LanguageModel, delta: Delta, records: Sequence[Record]) -> list[CaseResult]:
    """The records evaluated on the edited model."""
    with model.edited(delta.changes):
        return evaluate(model, records)


if __name__ == "__main__":
    main()

"""Covariance: ours against the bare forward pass that it needs at least, and the plain way.

    python -m benchmarks.covariance [--model smollm2-135m] [--tokens 32768] [--corpus FILE]

Prints tokens per second. The bare pass feeds exactly the same batches and ends at the last edited
layer's down-projection; beyond it, ours only computes the products ``k k^T`` of all layers. The
plain way is ROME's, one layer at a time; it is timed on one layer and multiplied by their number.
The best of several turns counts, since the ratio is close to one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import print_machine
from benchmarks.plain import plain_second_moment
from benchmarks.products import print_share_of_floor
from benchmarks.report import print_rate, print_ratio, require_agreement, timed
from collabedit.covariance import Corpus, TextCorpus, collect, open_corpus
from collabedit.datasets import load_dataset
from collabedit.editors import default_hyperparameters
from collabedit.messages import Covariance
from collabedit.models import LanguageModel, load_model

#: Products in float32, summed in another order.
TOLERANCE = 1e-5

_DOCUMENT_PROMPTS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--corpus", type=Path, help="a text file; prompts of worldfacts by default")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    print_machine()
    model = load_model(options.model)
    layers = default_hyperparameters(model.name, model.structure).hyperparameters.layers
    corpus = open_corpus([str(options.corpus)], 0) if options.corpus else prompts_corpus()

    def collected() -> Covariance:
        return collect(model, layers, corpus, tokens=options.tokens, say=lambda _: None)

    batches = recorded_inputs(model, collected)  # warms up
    ours, bare = [], []
    for _ in range(options.turns):
        covariance, seconds = timed(collected)
        ours.append(seconds)
        bare.append(timed(lambda: bare_passes(model, batches, layers[-1]))[1])
    tokens = covariance.samples
    last = layers[-1]
    plain, plain_seconds = timed(lambda: plain_second_moment(model, batches, last))

    ours_rate = print_rate("ours", tokens, min(ours), "tokens")
    bare_rate = print_rate("bare pass of the same batches", tokens, min(bare), "tokens")
    plain_rate = print_rate("plain", tokens, plain_seconds * len(layers), "tokens")
    print_ratio("ours / bare", ours_rate / bare_rate, 0.8)
    print(f"{'ours / plain':<34} {ours_rate / plain_rate:10.2f}")
    (name,) = model.weight_names([last])
    moment = covariance.second_moments[name]
    distance = float((moment - plain).norm() / plain.norm())
    require_agreement("relative difference from plain", distance, TOLERANCE)
    print_share_of_floor(model, collected, min(ours))


def prompts_corpus() -> Corpus:
    """Documents made of prompts from worldfacts, each a few paragraphs long."""
    prompts: list[str] = []
    for record in load_dataset("worldfacts"):
        prompts += [f"{record.request.text} {record.request.target_true}."]
        prompts += [f"{prompt}." for prompt in record.attribute_prompts]
        prompts += [f"{prompt}." for prompt in record.generation_prompts]
    starts = range(0, len(prompts), _DOCUMENT_PROMPTS)
    documents = [" ".join(prompts[start : start + _DOCUMENT_PROMPTS]) for start in starts]
    return TextCorpus("prompts of worldfacts", {}, lambda: documents)


def recorded_inputs(model: LanguageModel, work: Any) -> list[dict[str, Any]]:
    """The model's inputs during ``work``, batch by batch."""
    inputs: list[dict[str, Any]] = []

    def keep(_module: Any, _args: Any, options: dict[str, Any]) -> None:
        inputs.append(options)

    handle = model.hf.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        work()
    finally:
        handle.remove()
    return inputs


class _Reached(Exception):  # noqa: N818  (not an error)
    """Ends a pass."""


@torch.inference_mode()
def bare_passes(model: LanguageModel, inputs: Sequence[dict[str, Any]], layer: int) -> None:
    """Forward passes up to a layer's down-projection, and nothing more."""

    def stop(*_: Any) -> None:
        raise _Reached

    handle = model.projection(layer).register_forward_pre_hook(stop)
    try:
        for batch in inputs:
            with suppress(_Reached):
                model.hf(**batch)
    finally:
        handle.remove()


if __name__ == "__main__":
    main()

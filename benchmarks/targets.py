"""Targets: ours against the plain way, one edit at a time through the whole model.

    python -m benchmarks.targets [--edits 64] [--plain-edits 8] [--search preset|adam|lbfgs]

Prints edits per second of both. The plain way searches as MEMIT's published files say, by Adam at a
rate of 0.5 in at most 25 steps; ours as the model's preset does, as the plain way, or by L-BFGS.
The plain way is timed on fewer edits, half of them before ours and half after. Then it prints how
well the results agree: the mean final loss, computed by the plain code, of all edits with our
targets and with ours in float32 throughout, and of the few with the latter and with the plain
targets; and the model's scores after the few edits. Single edits end a few percent apart, because
they stop at the first step below a threshold, so the mean needs many of them. Last, it prints which
share of our time the matrix products alone would take at the rate of one large product; no step
with this model can do without them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.machine import print_machine, with_peak_memory
from benchmarks.plain import plain_loss, plain_target
from benchmarks.products import matrix_numbers, product_rate
from benchmarks.report import print_rate, print_ratio, timed
from collabedit.covariance import SelfCorpus, collect
from collabedit.datasets import load_dataset
from collabedit.editing import optimise_targets, sample_contexts
from collabedit.editing.suffixes import Suffixes, SuffixModel
from collabedit.editors import Contexts, Hyperparameters, default_hyperparameters
from collabedit.evaluation import evaluate, summarise
from collabedit.merging import resolve_method
from collabedit.messages import Covariance, Schedule
from collabedit.models import LanguageModel, load_model
from collabedit.models.precision import has_fast_bfloat16
from collabedit.parties import Party, new_round
from collabedit.requests import EditRequest, Record
from collabedit.rounds import Coordinator, static_priors
from collabedit.transports import run_in_process

#: The search of MEMIT's published files.
PUBLISHED = {"target_steps": 25, "target_learning_rate": 0.5, "target_momentum": 0.9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--edits", type=int, default=64)
    parser.add_argument("--plain-edits", type=int, default=8)
    parser.add_argument("--search", choices=("preset", "adam", "lbfgs"), default="preset")
    options = parser.parse_args()
    print_machine()
    model = load_model(options.model)
    preset = default_hyperparameters(model.name, model.structure).hyperparameters
    published = preset.with_changes(**PUBLISHED)
    settings = {
        "preset": preset,
        "adam": published,
        "lbfgs": published.with_changes(target_search="lbfgs"),
    }[options.search]
    contexts = sample_contexts(model, 0)
    records = load_dataset("worldfacts")[: options.edits]
    requests = [record.request for record in records]
    few = records[: options.plain_edits]
    few_requests = requests[: len(few)]
    optimise_targets(model, requests[:2], contexts, settings.with_changes(target_steps=2))
    plain_targets(model, requests[:1], contexts, published.with_changes(target_steps=2))

    half = len(few) // 2
    first, before = timed(lambda: plain_targets(model, requests[:half], contexts, published))
    with counted_products(model, settings) as products:
        (ours, memory), seconds = timed(
            lambda: with_peak_memory(lambda: optimise_targets(model, requests, contexts, settings))
        )
    rest, after = timed(
        lambda: plain_targets(model, requests[half : len(few)], contexts, published)
    )
    plain = torch.cat([first, rest], dim=1)

    ours_rate = print_rate("ours", len(requests), seconds, "edits")
    plain_rate = print_rate("plain, one edit at a time", len(few), before + after, "edits")
    print_ratio("ours / plain", ours_rate / plain_rate, 15)
    exact = optimise_targets(model, requests, contexts, settings, quick=False)
    print_losses(model, requests, contexts, settings, {"ours": ours, "ours, all in float32": exact})
    ours_few, exact = ours[:, : len(few)], exact[:, : len(few)]
    named = {"the same, all in float32": exact, "plain": plain}
    print_losses(model, few_requests, contexts, settings, named)
    covariance = collect(model, settings.layers, SelfCorpus(0), tokens=4096)
    for name, targets in (("ours", ours_few), ("plain", plain)):
        scores = scores_after(model, few, contexts, settings, covariance, targets)
        print(f"{f'edited with the targets of {name}':<34} {scores}")
    quick = model.dtype == torch.float32 and has_fast_bfloat16(model.device)
    rate = product_rate(model, torch.bfloat16 if quick else model.dtype)
    print(f"{'matrix products':<34} {rate / 1e9:10.0f} GFLOP/s")
    print(f"{'share of our time they must take':<34} {2 * sum(products) / rate / seconds:10.2f}")
    print(f"{'peak memory beyond the model':<34} {memory / 1e6:10.0f} MB")


def plain_targets(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    settings: Hyperparameters,
) -> Tensor:
    """``Z [d_out, n]``, one edit at a time."""
    targets = [plain_target(model, request, contexts, settings)[0] for request in requests]
    return torch.stack(targets, dim=1) if targets else torch.empty(model.structure.hidden_size, 0)


def print_losses(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    settings: Hyperparameters,
    targets: Mapping[str, Tensor],
) -> None:
    """Print the mean loss of the requests with each named ``Z``, and how two of them differ."""
    losses = []
    for name, columns in targets.items():
        pairs = zip(requests, columns.T, strict=True)
        of_edits = [plain_loss(model, r, contexts, settings, column) for r, column in pairs]
        losses.append(sum(of_edits) / len(of_edits))
        label = f"mean loss of {len(of_edits)}, {name}"
        print(f"{label:<44} {losses[-1]:10.5f}")
    print(f"{'relative difference':<44} {losses[0] / losses[1] - 1:10.2%}")


def scores_after(
    model: LanguageModel,
    records: Sequence[Record],
    contexts: Contexts,
    settings: Hyperparameters,
    covariance: Covariance,
    targets: Tensor,
) -> str:
    """ES, PS and NS of the records after editing the model, all layers at once."""
    config = new_round(
        model, schedule=Schedule.ONE_SHOT, hyperparameters=settings, contexts=contexts
    )
    party = Party(model, [record.request for record in records], config, targets=targets)
    coordinator = Coordinator(config, static_priors(config, covariance), resolve_method("GLOBAL"))
    delta = run_in_process([party], coordinator)
    with model.edited(delta.changes):
        summary = summarise(evaluate(model, records))
    return " / ".join(f"{name} {summary[name]:.1f}" for name in ("ES", "PS", "NS"))  # type: ignore[literal-required]


@contextmanager
def counted_products(model: LanguageModel, settings: Hyperparameters) -> Iterator[list[int]]:
    """Collect the least number of multiply-adds for the steps in the block, without padding.

    A weight of ``P`` numbers takes ``P`` of them per token, and as many for the gradient.
    """
    layers = range(settings.layers[-1] + 1, model.structure.n_layers)
    above = sum(matrix_numbers(model.layer(layer)) for layer in layers)
    head = matrix_numbers(model.head)
    products: list[int] = []
    logits = SuffixModel.logits

    def counting(self: SuffixModel, group: Suffixes, *change: Tensor) -> Tensor:
        tokens = sum(text.length for text in group.texts)
        directions = 2 if torch.is_grad_enabled() else 1
        products.append(directions * (tokens * above + len(group.rows) * head))
        return logits(self, group, *change)

    with patch.object(SuffixModel, "logits", counting):
        yield products


if __name__ == "__main__":
    main()

"""Targets: ours against the plain way, one edit at a time through the whole model.

    python -m benchmarks.targets [--model smollm2-135m] [--edits 32] [--plain-edits 4]

Prints edits per second of both, their ratio, and how well the results agree: the mean final loss
of the edits that both found, evaluated by the plain code. The plain way is timed on fewer edits.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from benchmarks.plain import plain_loss, plain_target
from collabedit.datasets import load_dataset
from collabedit.editing import default_hyperparameters, optimise_targets, sample_contexts
from collabedit.models import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--edits", type=int, default=32)
    parser.add_argument("--plain-edits", type=int, default=4)
    options = parser.parse_args()
    model = load_model(options.model)
    settings = default_hyperparameters(model.name, model.structure).hyperparameters
    contexts = sample_contexts(model, 0)
    requests = [record.request for record in load_dataset("worldfacts")[: options.edits]]

    start = time.perf_counter()
    ours: Tensor = optimise_targets(model, requests, contexts, settings)
    ours_rate = len(requests) / (time.perf_counter() - start)

    chosen = requests[: options.plain_edits]
    start = time.perf_counter()
    plain = [plain_target(model, request, contexts, settings)[0] for request in chosen]
    plain_rate = len(chosen) / (time.perf_counter() - start)

    def mean_loss(targets: list[Tensor]) -> float:
        losses = [
            plain_loss(model, request, contexts, settings, target)
            for request, target in zip(chosen, targets, strict=True)
        ]
        return sum(losses) / len(losses)

    print(f"threads {torch.get_num_threads()}, torch {torch.__version__}, {options.model}")
    print(f"ours  {ours_rate:.3f} edits/s ({len(requests)} edits)")
    print(f"plain {plain_rate:.3f} edits/s ({len(chosen)} edits)")
    print(f"ratio {ours_rate / plain_rate:.1f}")
    found = list(ours.T[: len(chosen)])
    print(f"mean final loss: ours {mean_loss(found):.4f}, plain {mean_loss(plain):.4f}")


if __name__ == "__main__":
    main()

"""Keys and residuals: ours against one edit, one template and one layer at a time.

    python -m benchmarks.keys [--model smollm2-135m] [--edits 64] [--plain-edits 4]

Prints edits per second. Ours is timed twice: once for all layers together, as in the one-shot
schedule, and once layer by layer, as in the layerwise one. The plain way runs one text per pass;
the padded way, for comparison, runs MEMIT's own batches of 128 texts. Both run whole passes for
every layer and measure the residual again at each, and are timed on fewer edits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from benchmarks.machine import print_machine
from benchmarks.plain import padded_keys, plain_hidden, plain_keys
from benchmarks.products import print_share_of_floor
from benchmarks.report import print_rate, print_ratio, require_agreement, timed
from collabedit.datasets import load_dataset
from collabedit.editing import Measurement, measure, sample_contexts
from collabedit.editors import Contexts, default_hyperparameters
from collabedit.models import LanguageModel, load_model
from collabedit.requests import EditRequest

#: Both sum float32 in other orders; a larger difference would mean a different key.
TOLERANCE = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--edits", type=int, default=64)
    parser.add_argument("--plain-edits", type=int, default=4)
    options = parser.parse_args()
    print_machine()
    model = load_model(options.model)
    layers = default_hyperparameters(model.name, model.structure).hyperparameters.layers
    contexts = sample_contexts(model, 0)
    requests = [record.request for record in load_dataset("worldfacts")[: options.edits]]
    few = requests[: options.plain_edits]
    measure(model, few, contexts, layers, layers[-1])  # warms up

    def together() -> Measurement:
        return measure(model, requests, contexts, layers, layers[-1])

    def by_layer() -> list[Measurement]:
        return [measure(model, requests, contexts, [layer], layers[-1]) for layer in layers]

    ours, at_once = timed(together)
    _, one_by_one = timed(by_layer)
    plain, one_text = timed(lambda: plain_measurement(model, few, contexts, layers))
    padded, batched = timed(lambda: padded_measurement(model, few, contexts, layers))

    at_once_rate = print_rate("ours, all layers together", len(requests), at_once, "edits")
    by_layer_rate = print_rate("ours, layer by layer", len(requests), one_by_one, "edits")
    plain_rate = print_rate("plain, one text a pass", len(few), one_text, "edits")
    padded_rate = print_rate("padded, as MEMIT batches", len(few), batched, "edits")
    print_ratio("together / plain", at_once_rate / plain_rate, 8)
    print_ratio("layer by layer / plain", by_layer_rate / plain_rate, 8)
    print(f"{'together / padded':<34} {at_once_rate / padded_rate:10.2f}")
    require_agreement("largest difference from plain", difference(ours, plain), TOLERANCE)
    require_agreement("largest difference from padded", difference(ours, padded), TOLERANCE)
    print_share_of_floor(model, together, at_once)


def plain_measurement(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    layers: Sequence[int],
) -> Measurement:
    """Text by text, layer by layer; the hidden states are also measured again at each layer."""
    keys = {}
    for layer in layers:
        columns = [plain_keys(model, request, contexts, layer) for request in requests]
        hidden = [plain_hidden(model, request, layers[-1]) for request in requests]
        keys[layer] = torch.stack(columns, dim=1)
    return Measurement(keys, torch.stack(hidden, dim=1))


def padded_measurement(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    layers: Sequence[int],
) -> Measurement:
    """Keys in MEMIT's batches; hidden states, a small part of the work, with one text per pass."""
    keys = {layer: padded_keys(model, requests, contexts, layer) for layer in layers}
    hidden = [plain_hidden(model, request, layers[-1]) for request in requests]
    return Measurement(keys, torch.stack(hidden, dim=1))


def difference(ours: Measurement, other: Measurement) -> float:
    """The largest ``|k - k_other| / |k_other|`` of any key or hidden state that both have."""
    count = other.hidden.shape[1]
    pairs = [(ours.keys[layer][:, :count], keys) for layer, keys in other.keys.items()]
    pairs.append((ours.hidden[:, :count], other.hidden))
    return max(float(((a - b).norm(dim=0) / b.norm(dim=0)).max()) for a, b in pairs)


if __name__ == "__main__":
    main()

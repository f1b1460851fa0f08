"""Evaluation: ours, all prompts at once, against one prompt and target at a time.

    python -m benchmarks.evaluation [--model smollm2-135m] [--records 64] [--plain-records 4]

Prints records per second. The plain way runs a whole pass with all logits for every prompt with
every target; the padded way, for comparison, is MEMIT's: one padded batch per record. Both are
timed on fewer records.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from benchmarks.machine import print_machine
from benchmarks.plain import padded_scores, plain_score
from benchmarks.products import print_share_of_floor
from benchmarks.report import print_rate, print_ratio, require_agreement, timed
from collabedit.datasets import load_dataset
from collabedit.evaluation import CaseResult, evaluate
from collabedit.models import load_model
from collabedit.requests import Record

#: Largest difference in a probability; padding makes attention sum in another order.
TOLERANCE = 1e-4
PADDED_TOLERANCE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--plain-records", type=int, default=4)
    options = parser.parse_args()
    print_machine()
    model = load_model(options.model)
    records = load_dataset("worldfacts")[: options.records]
    few = records[: options.plain_records]
    pairs = [pairs_of(record) for record in few]
    evaluate(model, few[:1])  # warms up

    ours, together = timed(lambda: evaluate(model, records))
    plain, one_text = timed(lambda: [[plain_score(model, *pair) for pair in p] for p in pairs])
    padded, batched = timed(lambda: [padded_scores(model, of_record) for of_record in pairs])

    ours_rate = print_rate("ours, all records together", len(records), together, "records")
    plain_rate = print_rate("plain, one text a pass", len(few), one_text, "records")
    padded_rate = print_rate("padded, one record a pass", len(few), batched, "records")
    print_ratio("ours / plain", ours_rate / plain_rate, 6)
    print(f"{'ours / padded':<34} {ours_rate / padded_rate:10.2f}")
    losses = [losses_in(case) for case in ours[: len(few)]]
    require_agreement("largest difference from plain", difference(losses, plain), TOLERANCE)
    from_padded = difference(losses, padded)
    require_agreement("largest difference from padded", from_padded, PADDED_TOLERANCE)
    print_share_of_floor(model, lambda: evaluate(model, records), together)


def pairs_of(record: Record) -> list[tuple[str, str]]:
    """Prompts and targets in the order of a result's lists, new before true."""
    request = record.request
    if request.target_true is None:
        raise SystemExit("the benchmark needs records with a true object")
    prompts = [request.text, *record.paraphrase_prompts, *record.neighborhood_prompts]
    return [(p, target) for p in prompts for target in (request.target_new, request.target_true)]


def losses_in(case: CaseResult) -> list[float]:
    """All losses of a result, in that order."""
    entries = (
        case["rewrite_prompts_probs"]
        + case["paraphrase_prompts_probs"]
        + case["neighborhood_prompts_probs"]
    )
    return [loss for entry in entries for loss in (entry["target_new"], entry["target_true"])]


def difference(ours: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """The largest difference in a probability ``exp(-loss)``."""
    return max(
        abs(math.exp(-a) - math.exp(-b))
        for left, right in zip(ours, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


if __name__ == "__main__":
    main()

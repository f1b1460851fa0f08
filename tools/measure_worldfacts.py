"""Measure how much of the ``worldfacts`` data set an unedited model already knows.

For rewrite prompts, paraphrases and neighbourhood prompts, the script reports the share for which
the true object has a lower mean negative log-likelihood per token than the new one, and the share
for which greedy decoding yields the true object.

Usage::

    python tools/measure_worldfacts.py --model path/to/SmolLM2-135M-Instruct
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

DEFAULT_PATH = Path(__file__).resolve().parents[1] / "src/collabedit/datasets/worldfacts.json"


class Question(NamedTuple):
    """One prompt of one record, with the two objects that compete for it."""

    relation: str
    kind: str
    prompt: str
    true: str
    new: str


class Answer(NamedTuple):
    """Mean negative log-likelihood per token, and whether greedy decoding agrees."""

    nll: float
    greedy: bool


def questions(records: Sequence[dict[str, Any]]) -> Iterator[Question]:
    """Yield every rewrite, paraphrase and neighbourhood question of ``records``."""
    for record in records:
        rewrite = record["requested_rewrite"]
        objects = rewrite["target_true"]["str"], rewrite["target_new"]["str"]
        groups = {
            "rewrite": [rewrite["prompt"].format(rewrite["subject"])],
            "paraphrase": record["paraphrase_prompts"],
            "neighborhood": record["neighborhood_prompts"],
        }
        for kind, prompts in groups.items():
            for prompt in prompts:
                yield Question(rewrite["relation_id"], kind, prompt, *objects)


@torch.inference_mode()
def answer_batch(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> list[Answer]:
    """Score the continuation of each (prompt ids, continuation ids) row."""
    inputs = [prompt + target[:-1] for prompt, target in rows]
    width = max(map(len, inputs))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in inputs])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in inputs])
    hidden = model.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    answers = []
    for states, (prompt, target) in zip(hidden, rows, strict=True):
        span = states[len(prompt) - 1 : len(prompt) + len(target) - 1]
        log_probs = model.get_output_embeddings()(span).log_softmax(-1)
        wanted = torch.tensor(target)
        nll = -log_probs.gather(1, wanted[:, None]).mean().item()
        answers.append(Answer(nll, torch.equal(log_probs.argmax(-1), wanted)))
    return answers


def answer_all(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], batch_size: int
) -> dict[tuple[str, str], Answer]:
    """Score each (prompt, object) pair once, in batches of similar length."""
    rows = {
        pair: (
            tokenizer(pair[0])["input_ids"],
            tokenizer(" " + pair[1], add_special_tokens=False)["input_ids"],
        )
        for pair in set(pairs)
    }
    ordered = sorted(rows, key=lambda pair: (sum(map(len, rows[pair])), pair))
    answers: dict[tuple[str, str], Answer] = {}
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        scored = answer_batch(model, [rows[pair] for pair in batch])
        answers.update(zip(batch, scored, strict=True))
    return answers


def report(asked: Sequence[Question], answers: dict[tuple[str, str], Answer]) -> None:
    """Print, per relation and in all, the two shares for each kind of prompt."""
    outcomes: dict[tuple[str, str], list[tuple[bool, bool]]] = defaultdict(list)
    for question in asked:
        true = answers[question.prompt, question.true]
        prefers = true.nll < answers[question.prompt, question.new].nll
        for relation in (question.relation, "all"):
            outcomes[relation, question.kind].append((prefers, true.greedy))
    kinds = ("rewrite", "paraphrase", "neighborhood")
    print(f"{'% prefers true / greedy true':30}" + "".join(f"{kind:>16}" for kind in kinds))
    for relation in sorted({relation for relation, _ in outcomes}):
        cells = []
        for kind in kinds:
            rows = outcomes[relation, kind]
            prefers, greedy = (100 * sum(column) / len(rows) for column in zip(*rows, strict=True))
            cells.append(f"{prefers:9.1f} /{greedy:5.1f}")
        print(f"{relation:30}" + "".join(cells))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure what a model knows of worldfacts.")
    parser.add_argument("--model", required=True, help="path or name of a causal language model")
    parser.add_argument("--path", type=Path, default=DEFAULT_PATH)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    asked = list(questions(json.loads(args.path.read_text(encoding="utf-8"))))
    pairs = [(question.prompt, object_) for question in asked for object_ in question[3:]]
    report(asked, answer_all(model, tokenizer, pairs, args.batch_size))


if __name__ == "__main__":
    main()

"""Measuring edits record by record: the blocks of result files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import TypedDict

from collabedit.evaluation.answers import Answer
from collabedit.evaluation.scoring import Read, TargetScore, score
from collabedit.models import LanguageModel
from collabedit.models.lengths import check_lengths
from collabedit.models.tokens import PromptText
from collabedit.requests import Record, RecordKind

__all__ = ["CaseResult", "Probabilities", "evaluate"]


class Probabilities(TypedDict, total=False):
    """Mean negative log-likelihood per token, in nats, of both objects after one prompt.

    ``target_true`` is absent if the record names no true object.
    """

    target_new: float
    target_true: float


class _Case(TypedDict):
    case_id: int
    kind: RecordKind


class CaseResult(_Case, total=False):
    """A model's results on one record's prompts, in the layout of ROME's and MEMIT's result files.

    ``counterfact``: ``*_probs`` has one entry per prompt, ``*_correct`` says for each prompt
    whether every token of the object is the most likely one. The object is ``target_new`` for
    rewrite and paraphrase prompts, ``target_true`` for neighbourhood prompts.

    ``zsre``: no ``*_probs``; ``*_correct`` has one entry per target token, over all prompts of the
    list; the target is the answer, or ``neighborhood_target``.

    ``ngram_entropy`` to ``text`` come from :func:`collabedit.evaluation.evaluate_generations`,
    ``answers`` from :func:`collabedit.evaluation.answer_records`.
    """

    rewrite_prompts_probs: list[Probabilities]
    paraphrase_prompts_probs: list[Probabilities]
    neighborhood_prompts_probs: list[Probabilities]
    rewrite_prompts_correct: list[bool]
    paraphrase_prompts_correct: list[bool]
    neighborhood_prompts_correct: list[bool]
    ngram_entropy: float
    reference_score: float
    text: list[str]
    answers: list[Answer]


def evaluate(
    model: LanguageModel,
    records: Sequence[Record],
    *,
    max_tokens: int | None = None,
    read: Read | None = None,
) -> list[CaseResult]:
    """Measure a model on records.

    All prompts of all records are scored at once, which is much faster than record by record.

    Args:
        model: the model, edited or not.
        records: the records; a counterfact record without a true object is measured on the new
            object only, and its neighbourhood prompts are skipped.
        max_tokens: see :func:`collabedit.evaluation.score`.
        read: likewise.

    Returns:
        One result per record, in the order of the records; it can be written as JSON.

    Raises:
        RequestError: when a prompt or a target cannot be scored.
    """
    pairs = [_pairs(record) for record in records]
    texts = [PromptText(*pair) for record_pairs in pairs for pair in record_pairs]
    cases = [f"case {record.request.case_id}" for record in records]
    names = [case for case, record_pairs in zip(cases, pairs, strict=True) for _ in record_pairs]
    check_lengths(model, texts, names)
    flat = list(chain.from_iterable(pairs))
    scores = iter(score(model, flat, max_tokens=max_tokens, read=read))
    return [
        _result(record, list(islice(scores, len(record_pairs))))
        for record, record_pairs in zip(records, pairs, strict=True)
    ]


def _pairs(record: Record) -> list[tuple[str, str]]:
    """The prompts and targets of a record to score, in the order that :func:`_result` expects."""
    request = record.request
    edited = [request.text, *record.paraphrase_prompts]
    if record.kind == "zsre":
        kept = record.neighborhood_target
        return [(prompt, request.target_new) for prompt in edited] + (
            [(prompt, kept) for prompt in record.neighborhood_prompts] if kept else []
        )
    if request.target_true is None:
        return [(prompt, request.target_new) for prompt in edited]
    return [
        (prompt, target)
        for prompt in [*edited, *record.neighborhood_prompts]
        for target in (request.target_new, request.target_true)
    ]


def _result(record: Record, scores: Sequence[TargetScore]) -> CaseResult:
    paraphrases = 1 + len(record.paraphrase_prompts)
    if record.kind == "zsre":
        tokens = [list(item.tokens_correct) for item in scores]
        return {
            "case_id": record.case_id,
            "kind": record.kind,
            "rewrite_prompts_correct": tokens[0],
            "paraphrase_prompts_correct": list(chain.from_iterable(tokens[1:paraphrases])),
            "neighborhood_prompts_correct": list(chain.from_iterable(tokens[paraphrases:])),
        }
    has_true = record.request.target_true is not None
    new, true = (scores[::2], scores[1::2]) if has_true else (scores, [])
    probabilities = _probabilities(new, true)
    new_correct = [item.correct for item in new[:paraphrases]]
    return {
        "case_id": record.case_id,
        "kind": record.kind,
        "rewrite_prompts_probs": probabilities[:1],
        "paraphrase_prompts_probs": probabilities[1:paraphrases],
        "neighborhood_prompts_probs": probabilities[paraphrases:],
        "rewrite_prompts_correct": new_correct[:1],
        "paraphrase_prompts_correct": new_correct[1:],
        "neighborhood_prompts_correct": [item.correct for item in true[paraphrases:]],
    }


def _probabilities(new: Sequence[TargetScore], true: Sequence[TargetScore]) -> list[Probabilities]:
    if not true:
        return [{"target_new": item.nll} for item in new]
    return [{"target_new": a.nll, "target_true": b.nll} for a, b in zip(new, true, strict=True)]

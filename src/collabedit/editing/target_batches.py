"""Which edits' targets are optimised together, and how much of them at once."""

from __future__ import annotations

from collections.abc import Sequence

from collabedit.editing.texts import beginning_of
from collabedit.editors import Contexts, context_weights, kept_templates
from collabedit.models.language_model import LanguageModel
from collabedit.models.memory import head_bytes, pass_tokens, texts_at_once
from collabedit.models.tokens import encode_edits, fill_template
from collabedit.requests import EditRequest, question_prompt

__all__ = [
    "MAX_EDITS",
    "MAX_QUICK_TOKENS",
    "MAX_TOKENS",
    "batches_of",
    "can_be_quick",
    "edits_at_once",
    "identity",
    "tokens_at_once",
    "units_of",
]

#: Edits optimised together, and tokens of their texts in one forward and backward pass; more with
#: a quick copy, where tokens take less time and so reading the weights a larger share of it.
MAX_EDITS = 64
MAX_TOKENS = 512
MAX_QUICK_TOKENS = 1024

#: For the memory estimate: share of a pass's tokens that predict a target's token, and the least
#: number of tokens before the subject's last.
_READ_SHARE = 0.5
_PREFIX_TOKENS = 24


def can_be_quick(model: LanguageModel) -> bool:
    """Whether a quick copy is faster, and leaves half the memory budget."""
    if not model.can_be_quick:
        return False
    return model.memory_budget is None or 2 * _fixed_bytes(model, True) <= model.memory_budget


def _fixed_bytes(model: LanguageModel, quick: bool) -> int:
    """Bytes taken however few the texts: a quick copy, and the head reordered by products."""
    return head_bytes(model) + (model.quick_copy_bytes if quick else 0)


def tokens_at_once(model: LanguageModel, quick: bool, layers: int) -> int:
    """Tokens of one pass; it and the texts each get half of the budget that is not fixed."""
    fixed = _fixed_bytes(model, quick)
    reserved = fixed + max(0, (model.memory_budget or 0) - fixed) / 2
    most = MAX_QUICK_TOKENS if quick else MAX_TOKENS
    return pass_tokens(model, most, read_share=_READ_SHARE, kept_layers=layers, reserved=reserved)


def edits_at_once(model: LanguageModel, quick: bool, contexts: Contexts, layers: int) -> int:
    """Edits whose texts, up to the subject's last token, fit into what the passes leave."""
    templates = [template for template, _ in context_weights(contexts)]
    templates += kept_templates(contexts)
    texts = 1 + len(templates)
    longest = len(model.tokenizer(max(templates, key=len)).input_ids)
    length = max(_PREFIX_TOKENS, longest)
    most, reserved = MAX_EDITS * texts, _fixed_bytes(model, quick)
    return max(1, texts_at_once(model, most, length, layers, reserved=reserved) // texts)


def units_of(
    requests: Sequence[EditRequest], owners: Sequence[int] | None
) -> list[list[list[int]]]:
    """What gets one change: edits that begin alike, each as the indices of all equal requests.

    Parties with the same such edits share their unit, since its result is the same.
    """
    groups: dict[tuple[int, tuple[str, str]], dict[tuple[str, ...], list[int]]] = {}
    for index, request in enumerate(requests):
        owner = 0 if owners is None else owners[index]
        group = groups.setdefault((owner, beginning_of(request)), {})
        group.setdefault(identity(request), []).append(index)
    units: dict[tuple[tuple[str, ...], ...], list[list[int]]] = {}
    for group in groups.values():
        edits = tuple(sorted(group))
        unit = units.setdefault(edits, [[] for _ in edits])
        for same, edit in zip(unit, edits, strict=True):
            same += group[edit]
    return list(units.values())


def batches_of(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    units: Sequence[Sequence[list[int]]],
    max_edits: int,
) -> list[list[list[int]]]:
    """The edits to optimise together: those with texts of similar length, no beginning twice.

    Workers get whole batches, and assume that edits of one that begin alike belong to one party.
    """
    filled = [fill_template("{}", r.prompt, r.subject, r.target_new) for r in requests]
    lengths = [len(text.ids) - text.subject_last for text in encode_edits(model.tokenizer, filled)]
    batches: list[list[list[int]]] = []
    beginnings: list[set[tuple[str, str]]] = []
    for unit in sorted(units, key=lambda unit: max(lengths[same[0]] for same in unit)):
        beginning = beginning_of(requests[unit[0][0]])
        fitting = (
            number
            for number, batch in enumerate(batches)
            if len(batch) + len(unit) <= max_edits and beginning not in beginnings[number]
        )
        number = next(fitting, len(batches))
        if number == len(batches):
            batches.append([])
            beginnings.append(set())
        batches[number] += unit
        beginnings[number].add(beginning)
    return batches


def identity(request: EditRequest) -> tuple[str, ...]:
    """Everything that the texts of an edit depend on."""
    asked = question_prompt(request)
    return (request.prompt, request.subject, request.target_new, asked, *request.prompts)

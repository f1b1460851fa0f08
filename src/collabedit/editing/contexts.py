"""Context templates: what a fact is read in, so that its key and target do not hang on one text."""

from __future__ import annotations

from pathlib import Path

import torch

from collabedit.errors import InputError
from collabedit.files import read_json
from collabedit.models.language_model import LanguageModel
from collabedit.models.tokens import PromptText, encode, pad_right

__all__ = [
    "Contexts",
    "bare_contexts",
    "context_weights",
    "load_contexts",
    "sample_contexts",
    "validate_contexts",
]

#: Groups of templates with ``{}`` for the prompt. The first group is the bare prompt alone.
Contexts = tuple[tuple[str, ...], ...]

_FIRST_WORDS = ("The", "Therefore", "Because", "I", "You")
_BARE = "{}"


def bare_contexts() -> Contexts:
    """No context but the bare prompt."""
    return ((_BARE,),)


@torch.no_grad()
def sample_contexts(
    model: LanguageModel, seed: int, *, length: int = 10, top_k: int = 5
) -> Contexts:
    """The bare prompt, and five prefixes that the model continues from common first words.

    As in MEMIT, but seeded: contexts are part of a round's configuration, since parties with
    different ones would edit differently.

    Args:
        model: the unedited model.
        seed: of the sampling.
        length: tokens of each prefix.
        top_k: how many of the likeliest tokens are sampled from.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [list(row.ids) for row in encode(model.tokenizer, [PromptText(w) for w in _FIRST_WORDS])]
    starts = [len(row) for row in rows]
    while min(len(row) - start for row, start in zip(rows, starts, strict=True)) < length:
        batch = pad_right(rows, device=model.device)
        logits = model.hf(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        last = logits[batch.rows, batch.lengths - 1].float().cpu()
        values, tokens = last.topk(min(top_k, last.shape[-1]))
        choice = torch.multinomial(values.softmax(dim=-1), 1, generator=generator)
        for row, token in zip(rows, tokens.gather(1, choice).flatten().tolist(), strict=True):
            row.append(token)
    return (
        (_BARE,),
        tuple(_as_template(model.tokenizer.decode(r, skip_special_tokens=True)) for r in rows),
    )


def _as_template(text: str) -> str:
    cleaned = " ".join(text.replace("{", " ").replace("}", " ").split())
    return f"{cleaned}. {_BARE}"


def load_contexts(path: Path) -> Contexts:
    """Read templates from a JSON file, a list of groups of texts.

    Raises:
        InputError: when the file is not such a list.
    """
    value = read_json(path, "contexts file")
    if not isinstance(value, list) or not all(isinstance(group, list) for group in value):
        raise InputError(f"{path}: expected a list of groups of templates, each group a list")
    try:
        return validate_contexts(tuple(tuple(group) for group in value))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def validate_contexts(contexts: Contexts) -> Contexts:
    """Check templates.

    Raises:
        ValueError: when a group is empty, a template is no text with one ``{}``, or the first
            template is not the bare prompt.
    """
    if not contexts or not all(contexts):
        raise ValueError("contexts must be non-empty groups of templates")
    for template in (template for group in contexts for template in group):
        if not isinstance(template, str) or template.count(_BARE) != 1:
            raise ValueError(f"the template {template!r} must contain '{{}}' exactly once")
    if contexts[0][0] != _BARE:
        raise ValueError("the first template must be the bare prompt '{}'")
    return contexts


def context_weights(contexts: Contexts) -> list[tuple[str, float]]:
    """Each template with its weight in the mean over groups of the means within them."""
    share = 1 / len(contexts)
    return [(template, share / len(group)) for group in contexts for template in group]

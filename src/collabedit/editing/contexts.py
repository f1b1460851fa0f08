"""Sampling context templates from a model."""

from __future__ import annotations

import torch

from collabedit.editors.contexts import BARE, Contexts
from collabedit.models.language_model import LanguageModel
from collabedit.models.tokens import PromptText, encode, pad_right

__all__ = ["sample_contexts"]

_FIRST_WORDS = ("The", "Therefore", "Because", "I", "You")


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
        (BARE,),
        tuple(_as_template(model.tokenizer.decode(r, skip_special_tokens=True)) for r in rows),
    )


def _as_template(text: str) -> str:
    cleaned = " ".join(text.replace("{", " ").replace("}", " ").split())
    return f"{cleaned}. {BARE}"

"""Sampling context templates from a model."""

from __future__ import annotations

import torch
from torch import Tensor

from collabedit.editors.contexts import BARE, Contexts
from collabedit.models.language_model import LanguageModel
from collabedit.models.sampling import extend
from collabedit.models.tokens import PromptText, encode

__all__ = ["sample_contexts"]

_FIRST_WORDS = ("The", "Therefore", "Because", "I", "You")


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

    def choose(logits: Tensor, _position: int) -> Tensor:
        values, tokens = logits.cpu().topk(min(top_k, logits.shape[-1]))
        chosen = torch.multinomial(values.softmax(dim=-1), 1, generator=generator)
        return tokens.gather(1, chosen)

    encoded = encode(model.tokenizer, [PromptText(word) for word in _FIRST_WORDS])
    written: dict[int, list[int]] = {}
    for start in sorted({len(text.ids) for text in encoded}):
        places = [place for place, text in enumerate(encoded) if len(text.ids) == start]
        rows = torch.tensor([encoded[place].ids for place in places], device=model.device)
        extended = extend(model, rows, start + length, choose)
        written.update(zip(places, extended.tolist(), strict=True))
    texts = (model.tokenizer.decode(written[i], skip_special_tokens=True) for i in sorted(written))
    return ((BARE,), tuple(_as_template(text) for text in texts))


def _as_template(text: str) -> str:
    cleaned = " ".join(text.replace("{", " ").replace("}", " ").split())
    return f"{cleaned}. {BARE}"

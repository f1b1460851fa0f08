"""Context templates of a model: sampled prefixes, and its chat template."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from collabedit.editors.contexts import BARE, Contexts
from collabedit.models.chat import as_chat, end_of_turn, has_chat
from collabedit.models.language_model import LanguageModel
from collabedit.models.sampling import extend
from collabedit.models.tokens import ANSWER, PromptText, encode, leading_special_tokens

__all__ = ["chat_contexts", "sample_contexts"]

_FIRST_WORDS = ("The", "Therefore", "Because", "I", "You")

#: What the user says; the assistant answers with the whole sentence.
_ASKED = ("Complete: {}", "{} what?")


def chat_contexts(tokenizer: Any) -> Contexts:
    """A group of conversations in which the user asks and the assistant says the whole sentence.

    The loss is over the whole answer, the end of the turn included, so that the subject is said
    again and the answer ends. There is no such group for a tokenizer without a chat template.
    """
    if not has_chat(tokenizer):
        return ()
    templates = tuple(_restated(tokenizer, asked) for asked in _ASKED)
    if any(template.count(BARE) != 1 for template in templates):
        return ()  # the chat template writes braces of its own
    return (templates,)


def _restated(tokenizer: Any, asked: str) -> str:
    turns = [{"role": "user", "content": asked}]
    opened = as_chat(tokenizer, turns)
    for token in tokenizer.convert_ids_to_tokens(leading_special_tokens(tokenizer)):
        opened = opened.removeprefix(token)  # which encoding puts there
    return f"{opened}{ANSWER}.{end_of_turn(tokenizer, turns)}"


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

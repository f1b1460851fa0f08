"""Context templates of a model: sampled prefixes, and conversations in its chat template."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from collabedit.editors.contexts import ANSWER, BARE, QUESTION, SUBJECT, Contexts, validate_contexts
from collabedit.models.chat import as_chat, end_of_turn, has_chat
from collabedit.models.language_model import LanguageModel
from collabedit.models.sampling import extend
from collabedit.models.tokens import PromptText, encode, leading_special_tokens

__all__ = ["chat_contexts", "default_contexts", "sample_contexts"]

_FIRST_WORDS = ("The", "Therefore", "Because", "I", "You")

#: Prefixes used beside conversations: fewer, so that the conversations weigh enough.
_PREFIXES_IN_CHAT = 2

#: What the user says; the assistant answers with the whole sentence.
_ASKED = (f"Complete: {BARE}", QUESTION)

#: What the user asks about the subject itself, and how the assistant begins.
_ABOUT, _SAID = f"What is {SUBJECT}?", f"{SUBJECT} is a"


def default_contexts(model: LanguageModel, seed: int) -> Contexts:
    """The contexts that edits are made in by default.

    For a model with a chat template, the bare prompt, two sampled prefixes, and conversations; for
    others, the bare prompt and five prefixes, as in MEMIT.

    Args:
        model: the unedited model.
        seed: of the sampling.
    """
    conversations = chat_contexts(model.tokenizer)
    bare, prefixed = sample_contexts(model, seed)
    return (
        (bare, prefixed[:_PREFIXES_IN_CHAT], *conversations) if conversations else (bare, prefixed)
    )


def chat_contexts(tokenizer: Any) -> Contexts:
    """Conversations about an edit: a group of the fact's templates, and one of the subject's.

    In the first, the user asks for the fact and the assistant says the whole sentence. The loss
    covers the whole answer including the end of the turn, so that the answer repeats the subject
    and then ends. In the second, the user asks what the subject is, and the assistant should say
    what it said before. A tokenizer without a chat template has none.
    """
    if not has_chat(tokenizer):
        return ()
    facts = tuple(_conversation(tokenizer, asked, f"{ANSWER}.") for asked in _ASKED)
    contexts = (facts, (_opened(tokenizer, _ABOUT) + _SAID,))
    try:
        validate_contexts(((BARE,), *contexts))
    except ValueError:  # the chat template itself writes braces
        return ()
    return contexts


def _conversation(tokenizer: Any, asked: str, said: str) -> str:
    end = end_of_turn(tokenizer, [{"role": "user", "content": asked}])
    return f"{_opened(tokenizer, asked)}{said}{end}"


def _opened(tokenizer: Any, asked: str) -> str:
    """The text up to the assistant's answer, without the special tokens that encoding adds."""
    opened = as_chat(tokenizer, [{"role": "user", "content": asked}])
    for token in tokenizer.convert_ids_to_tokens(leading_special_tokens(tokenizer)):
        opened = opened.removeprefix(token)
    return opened


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
        indices = [index for index, text in enumerate(encoded) if len(text.ids) == start]
        rows = torch.tensor([encoded[index].ids for index in indices], device=model.device)
        extended = extend(model, rows, start + length, choose)
        written.update(zip(indices, extended.tolist(), strict=True))
    texts = (model.tokenizer.decode(written[i], skip_special_tokens=True) for i in sorted(written))
    return ((BARE,), tuple(_as_template(text) for text in texts))


def _as_template(text: str) -> str:
    cleaned = " ".join(text.replace("{", " ").replace("}", " ").split())
    return f"{cleaned}. {BARE}"

"""Context templates: what a fact is read in, so that its key and target do not hang on one text."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from collabedit.errors import InputError
from collabedit.files import read_json
from collabedit.models.language_model import LanguageModel
from collabedit.models.sampling import extend
from collabedit.models.tokens import PromptText, encode

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
    return ((_BARE,), tuple(_as_template(text) for text in texts))


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

"""Checks that a model can take texts of a given length, before any work is done with them."""

from __future__ import annotations

from collections.abc import Sequence

from collabedit.errors import RequestError
from collabedit.models.language_model import LanguageModel
from collabedit.models.tokens import PromptText, encode

__all__ = ["check_lengths", "context_length"]


def context_length(model: LanguageModel) -> int | None:
    """The most tokens that the model takes at once; ``None`` if its configuration omits it."""
    config = model.hf.config.get_text_config(decoder=True)
    length: int | None = getattr(config, "max_position_embeddings", None)
    return length


def check_lengths(model: LanguageModel, texts: Sequence[PromptText], names: Sequence[str]) -> None:
    """Check that a model can take texts: that they fit its context, and that it knows their tokens.

    Args:
        model: the model.
        texts: the texts, targets included.
        names: what errors call each text; never its words, which are private.

    Raises:
        RequestError: when a text is too long, or holds a token without an embedding.
    """
    limit = context_length(model)
    embedded = len(model.hf.get_input_embeddings().weight)
    for name, text in zip(names, encode(model.tokenizer, texts), strict=True):
        fed = len(text.ids) - bool(text.target_ids)  # nothing follows a target's last token
        if limit is not None and fed > limit:
            raise RequestError(
                f"{name}: one of its texts has {len(text.ids)} tokens, and {model.name} "
                f"takes {limit}; shorten the prompt or the target"
            )
        if max(text.ids, default=0) >= embedded:
            token = model.tokenizer.convert_ids_to_tokens(max(text.ids))
            raise RequestError(
                f"{name}: {model.name} has no embedding for the token {token!r}, which was added "
                "to its tokenizer later; remove it from the text"
            )

"""The default covariance, collected on text that the model itself writes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from collabedit.covariance.collect import MAX_LENGTH, collect
from collabedit.covariance.collector import Share
from collabedit.covariance.sizing import (
    collection_key,
    default_tokens,
    expected_seconds,
    plan_of,
)
from collabedit.covariance.written import own_corpus
from collabedit.errors import CollabEditError, InputError
from collabedit.files import cache_directory
from collabedit.messages import Covariance
from collabedit.models import LanguageModel
from collabedit.progress import duration, say

__all__ = ["default_covariance"]

logger = logging.getLogger(__name__)


def default_covariance(
    model: LanguageModel,
    layers: Sequence[int],
    seed: int = 0,
    *,
    tokens: int | None = None,
    say: Callable[[str], None] = say,
    share: Share | None = None,
) -> Covariance:
    """Second moments of text that the model writes or wrote, for when the user gives none.

    They are cached under a key of everything that they depend on.

    Args:
        model: the model, unedited.
        layers: which decoder layers.
        seed: of the samples, if no text comes with the package.
        tokens: how many to sample; :func:`default_tokens` when ``None``.
        say: receives the notice that this takes a while, and what would be better.
        share: who does the work, such as workers; this process by default.
    """
    corpus = own_corpus(model, tokens, seed)
    tokens = tokens or default_tokens(model, corpus)
    names = model.weight_names(sorted(set(layers)))
    key = collection_key(model.fingerprint(names), corpus, plan_of(model, tokens, MAX_LENGTH))
    path = cache_directory("covariance") / f"{key[:32]}.safetensors"
    if path.is_file():
        try:
            return Covariance.load(path)
        except CollabEditError as error:
            logger.warning("%s; collecting it again", error)
    minutes = duration(expected_seconds(model, corpus, tokens, layers))
    say(
        f"No covariance was given. Collecting one over {tokens:,} tokens of {model.name}'s own "
        f"text takes about {minutes}, only once; it is kept in {path.parent}. Text like that of "
        "its training is better: collabedit stats collect --corpus FILE"
    )
    try:
        return collect(model, layers, corpus, tokens=tokens, out=path, say=say, share=share)
    except InputError as error:  # a read-only or full cache must not stop the work
        say(f"{error}; the covariance will not be kept.")
        return collect(model, layers, corpus, tokens=tokens, say=say, share=share)

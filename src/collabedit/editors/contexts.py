"""Context templates: the texts in which a fact is read.

A key and a target averaged over several contexts depend less on any one of them. Contexts are part
of a round's configuration, since parties with different ones would edit differently; sampling
them takes a model (:func:`collabedit.editing.sample_contexts`).
"""

from __future__ import annotations

import os
from pathlib import Path

from collabedit.errors import InputError
from collabedit.files import read_json

__all__ = [
    "BARE",
    "Contexts",
    "bare_contexts",
    "context_weights",
    "load_contexts",
    "validate_contexts",
]

#: Groups of templates with ``{}`` for the prompt. The first group is the bare prompt alone.
Contexts = tuple[tuple[str, ...], ...]

BARE = "{}"


def bare_contexts() -> Contexts:
    """No context but the bare prompt."""
    return ((BARE,),)


def load_contexts(path: str | os.PathLike[str]) -> Contexts:
    """Read templates from a JSON file, a list of groups of texts.

    Raises:
        InputError: when the file is not such a list.
    """
    value = read_json(Path(path), "contexts file")
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
        if not isinstance(template, str) or template.count(BARE) != 1:
            raise ValueError(f"the template {template!r} must contain '{{}}' exactly once")
    if contexts[0][0] != BARE:
        raise ValueError("the first template must be the bare prompt '{}'")
    return contexts


def context_weights(contexts: Contexts) -> list[tuple[str, float]]:
    """Each template with its weight in the mean over groups of the means within them."""
    share = 1 / len(contexts)
    return [(template, share / len(group)) for group in contexts for template in group]

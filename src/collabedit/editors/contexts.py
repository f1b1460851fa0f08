"""Context templates: the texts in which a fact appears.

A key and a target averaged over several contexts depend less on any one of them. Contexts are part
of a round's configuration, since parties with different ones would edit differently; making them
requires a model (:func:`collabedit.editing.default_contexts`).

A template of a fact has ``{}`` for the edit's prompt, or ``{question}`` for the fact as a question.
With ``{answer}`` after it, as in a conversation, the answer is the whole sentence: the prompt, the
object and the rest of the template; if the prompt is a question, it is the object alone.

A template with ``{subject}`` twice preserves what the model says about the subject: it must write
the second one and continue from it as it did before the edit.
"""

from __future__ import annotations

import os
from pathlib import Path

from collabedit.errors import InputError
from collabedit.files import read_json

__all__ = [
    "ANSWER",
    "BARE",
    "QUESTION",
    "SUBJECT",
    "Contexts",
    "bare_contexts",
    "context_weights",
    "kept_templates",
    "key_weights",
    "load_contexts",
    "target_weights",
    "validate_contexts",
]

#: Groups of templates with ``{}`` for the prompt. The first group is the bare prompt alone.
Contexts = tuple[tuple[str, ...], ...]

BARE = "{}"
QUESTION = "{question}"
ANSWER = "{answer}"
SUBJECT = "{subject}"


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
        ValueError: when a group is empty, a template is neither for a fact nor for a subject, or
        the first template is not the bare prompt.
    """
    if not contexts or not all(contexts):
        raise ValueError("contexts must be non-empty groups of templates")
    for template in (template for group in contexts for template in group):
        if not isinstance(template, str) or not (_is_of_fact(template) or _keeps(template)):
            raise ValueError(
                f"the template {template!r} must contain '{{}}' exactly once, or '{{question}}' "
                "and then '{answer}', or '{subject}' twice"
            )
    if contexts[0][0] != BARE:
        raise ValueError("the first template must be the bare prompt '{}'")
    return contexts


def context_weights(contexts: Contexts) -> list[tuple[str, float]]:
    """Each template of facts with its weight in the mean key of all.

    A key is a mean over groups of the means within them (MEMIT, ``compute_ks``); conversations, if
    there are any, make up half of it.
    """
    return key_weights(contexts)[0]


def key_weights(contexts: Contexts, *, separate: bool = False) -> list[list[tuple[str, float]]]:
    """The keys of an edit, each as templates of facts with their weights, which add up to 1.

    Args:
        contexts: template groups.
        separate: give plain texts and conversations a key each, if there are both; otherwise one
            key is the mean of all.
    """
    kinds = _kinds(contexts)
    keys = [
        [
            (template, (1.0 if separate else share) / (len(kind) * len(group)))
            for group in kind
            for template in group
        ]
        for kind, share in kinds
    ]
    return keys if separate else [[weighted for key in keys for weighted in key]]


def target_weights(contexts: Contexts) -> list[tuple[str, float]]:
    """Each template of facts with its weight in a target's loss.

    Templates have equal weights (MEMIT, ``compute_z``); conversations make up half of the loss.
    """
    return [
        (template, share / sum(map(len, kind)))
        for kind, share in _kinds(contexts)
        for group in kind
        for template in group
    ]


def _kinds(contexts: Contexts) -> list[tuple[list[list[str]], float]]:
    """The groups of plain texts and of conversations, each with its weight in means."""
    facts = [[template for template in group if _is_of_fact(template)] for group in contexts]
    plain = [[t for t in group if ANSWER not in t] for group in facts]
    talks = [[t for t in group if ANSWER in t] for group in facts]
    kinds = [[group for group in kind if group] for kind in (plain, talks)]
    return [(kind, 0.5 if all(kinds) else 1.0) for kind in kinds if kind]


def kept_templates(contexts: Contexts) -> list[str]:
    """The templates whose continuations about the subject must not change."""
    return [template for group in contexts for template in group if _keeps(template)]


def _is_of_fact(template: str) -> bool:
    if template.count(BARE) + template.count(QUESTION) != 1 or SUBJECT in template:
        return False
    asked, answers, _ = template.partition(ANSWER)
    return bool(answers) and QUESTION in asked if QUESTION in template else True


def _keeps(template: str) -> bool:
    others = (BARE, QUESTION, ANSWER)
    return template.count(SUBJECT) == 2 and not any(other in template for other in others)

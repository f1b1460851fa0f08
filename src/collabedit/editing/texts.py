"""The texts in which an edit is measured, checked before any work is done with them."""

from __future__ import annotations

from collections.abc import Sequence

from collabedit.editors import Contexts, context_weights, kept_templates
from collabedit.editors.contexts import BARE, QUESTION, SUBJECT
from collabedit.models.language_model import LanguageModel
from collabedit.models.lengths import check_lengths
from collabedit.models.tokens import PromptText, fill_template
from collabedit.requests import EditRequest, question_prompt

__all__ = ["beginning_of", "check_requests", "kept_texts_of", "texts_in"]

#: MEMIT's: after the subject in this text, the next token must not change.
_ESSENCE = "{} is a"


def texts_in(template: str, request: EditRequest, *, target: bool = True) -> list[PromptText]:
    """An edit's texts in one context: one for each of its prompts if it is bare, otherwise one.

    Args:
        template: a template of facts.
        request: the edit.
        target: whether the new object follows.
    """
    subject, new_object = request.subject, request.target_new if target else ""
    if template == BARE:
        prompts = (request.prompt, *request.prompts)
        return [fill_template(template, prompt, subject, new_object) for prompt in prompts]
    prompt = request.prompt
    if QUESTION in template:
        template, prompt = template.replace(QUESTION, BARE), question_prompt(request)
    return [fill_template(template, prompt, subject, new_object, sentence=request.prompt)]


def beginning_of(request: EditRequest) -> tuple[str, str]:
    """What stands before the subject, and the subject; in plain texts they determine the key."""
    return request.prompt.partition("{}")[0], request.subject


def _kept_text(template: str, subject: str) -> PromptText:
    """A text whose target, what the model says about a subject, must not change."""
    before, between, after = template.split(SUBJECT)
    asked = f"{before}{subject}{between}"
    span, again = ((start, start + len(subject)) for start in (len(before), len(asked)))
    return PromptText(asked, f"{subject}{after}", span, close=True, again=again)


def kept_texts_of(request: EditRequest, contexts: Contexts) -> list[PromptText]:
    """All texts of an edit in which something must not change, MEMIT's first."""
    kept = [_kept_text(template, request.subject) for template in kept_templates(contexts)]
    return [fill_template("{}", _ESSENCE, request.subject), *kept]


def check_requests(
    model: LanguageModel, requests: Sequence[EditRequest], contexts: Contexts
) -> None:
    """Check that a model can take all texts from which keys and targets are computed.

    Args:
        model: the model.
        requests: the edits.
        contexts: template groups.

    Raises:
        RequestError: when a text is too long for the model, or has a token that it does not know;
            the message names the request by its case id.
    """
    templates = [template for template, _ in context_weights(contexts)]
    texts, names = [], []
    for request in requests:
        request_texts = [text for template in templates for text in texts_in(template, request)]
        request_texts += kept_texts_of(request, contexts)
        texts += request_texts
        names += [f"case {request.case_id}"] * len(request_texts)
    check_lengths(model, texts, names)

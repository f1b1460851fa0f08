"""The texts that an edit is read in, checked before any work is done with them."""

from __future__ import annotations

from collections.abc import Sequence

from collabedit.editors import Contexts, context_weights
from collabedit.models.language_model import LanguageModel
from collabedit.models.lengths import check_lengths
from collabedit.models.tokens import fill_template
from collabedit.requests import EditRequest

__all__ = ["KL_PROMPT", "check_requests"]

#: After the subject in this text, the next token must not change.
KL_PROMPT = "{} is a"


def check_requests(
    model: LanguageModel, requests: Sequence[EditRequest], contexts: Contexts
) -> None:
    """Check that a model takes all texts that keys and targets of requests are found with.

    Args:
        model: the model.
        requests: the edits.
        contexts: template groups.

    Raises:
        RequestError: when a text is too long for the model, or has a token that it does not know;
            the message names the request by its case id.
    """
    templates = [template for template, _ in context_weights(contexts)]
    texts = [
        fill_template(template, request.prompt, request.subject, request.target_new)
        for template in templates
        for request in requests
    ]
    texts += [fill_template("{}", KL_PROMPT, request.subject) for request in requests]
    names = [f"case {request.case_id}" for request in requests]
    check_lengths(model, texts, names * (len(templates) + 1))

"""Conversations in a model's chat template."""

from __future__ import annotations

from typing import Any, TypeAlias

from collabedit.errors import ModelError
from collabedit.models.failures import reason_of

__all__ = ["Turns", "as_chat", "end_of_turn", "has_chat"]

#: The turns of a conversation, each with a ``role`` and its ``content``.
Turns: TypeAlias = list[dict[str, str]]


def has_chat(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def as_chat(tokenizer: Any, turns: Turns) -> str:
    """Turns in the chat template, up to the start of the assistant's turn.

    If the template refuses a system prompt, it is put in front of the user's first turn.

    Raises:
        ModelError: when the template fails.
    """
    options = {"add_generation_prompt": True, "enable_thinking": False}
    try:
        return _filled(tokenizer, turns, **options)
    except ModelError:
        if turns[0]["role"] != "system":
            raise
        first = f"{turns[0]['content']}\n\n{turns[1]['content']}"
        return _filled(tokenizer, [{"role": "user", "content": first}, *turns[2:]], **options)


def _filled(tokenizer: Any, turns: Turns, **options: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, **options)
    except Exception as error:  # of any kind: a template is a program that comes with the model
        reason = reason_of(error)
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} fails ({reason}); correct or remove it "
            "(chat_template.jinja, or chat_template in tokenizer_config.json)"
        ) from error
    return text


def end_of_turn(tokenizer: Any, turns: Turns) -> str:
    """What the template puts right after the assistant's answer.

    Raises:
        ModelError: when the template fails.
    """
    mark = "@@@"
    answered = [*turns, {"role": "assistant", "content": mark}]
    return _filled(tokenizer, answered).rpartition(mark)[2].strip()

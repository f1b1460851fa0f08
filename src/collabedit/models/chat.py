"""Conversations in a model's chat template."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["Turns", "as_chat", "end_of_turn", "has_chat"]

#: What is said in turn: each with a ``role`` and its ``content``.
Turns: TypeAlias = list[dict[str, str]]


def has_chat(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def as_chat(tokenizer: Any, turns: Turns) -> str:
    """Turns in the chat template, up to where the assistant's turn begins.

    A template that refuses a system prompt gets it in front of the user's first turn.
    """
    from jinja2 import TemplateError

    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        text: str = tokenizer.apply_chat_template(turns, **options)
    except TemplateError:
        if turns[0]["role"] != "system":
            raise
        first = f"{turns[0]['content']}\n\n{turns[1]['content']}"
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": first}, *turns[2:]], **options
        )
    return text


def end_of_turn(tokenizer: Any, turns: Turns) -> str:
    """What the template puts right after the assistant's answer to some turns."""
    mark = "@@@"
    said = [*turns, {"role": "assistant", "content": mark}]
    text: str = tokenizer.apply_chat_template(said, tokenize=False)
    return text.rpartition(mark)[2].strip()

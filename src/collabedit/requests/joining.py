"""Joining a prompt and what follows it, as a writer of its script would."""

from __future__ import annotations

import unicodedata

__all__ = ["closed", "is_question", "join", "stem"]

#: Scripts written without spaces between words, by the first words of their characters' Unicode
#: names.
_UNSPACED = (
    *("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"),
    *("IDEOGRAPHIC", "FULLWIDTH"),
)

#: Likewise, the scripts with their own full stop.
_EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC")

#: Characters without a space after them: those of the first set only where a word could begin,
#: those of the second always, like opening brackets, opening quotes and currency signs.
_OPENS = frozenset("\"'`#@")
_HOLDS_NEXT = frozenset("_/\\¿¡")

#: Where the assistant's turn begins in chat templates without a line break there.
_TURN_BEGINS = "|>"

#: What a sentence can end with.
_STOPS = frozenset(".!?…\N{IDEOGRAPHIC FULL STOP}\N{FULLWIDTH EXCLAMATION MARK}")

#: What follows a word without a space, besides closing brackets and quotes.
_HOLDS_PREVIOUS = frozenset(",.;:!?%…")


def join(prompt: str, target: str) -> str:
    """A prompt and its continuation, with a space between them where a writer puts one.

    White space in the record is respected: a target's leading space stays, and a prompt that ends
    in a line break or a tab is continued there. To a language model a space at the prompt's end
    belongs to the next word, so it becomes the target's leading space. Without either, script and
    punctuation decide: there is no space in Chinese, Japanese, Thai and other scripts without
    spaces, nor after an opening bracket or quote, a currency sign, or a hyphen on a word.
    """
    before = stem(prompt)
    if before != prompt:
        return f"{before} {target.lstrip()}"
    if target[:1].isspace() or not _needs_space(prompt, target):
        return prompt + target
    return f"{prompt} {target}"


def stem(prompt: str) -> str:
    """A prompt without the spaces at its end, unless they begin a line.

    That is what a model reads before it writes, since it writes the space as part of the next word.
    """
    stripped = prompt.rstrip(" ")
    return prompt if not stripped or stripped[-1].isspace() else stripped


def closed(sentence: str) -> str:
    """A sentence with a full stop, as its script writes it, unless it ends in one already."""
    last = sentence.rstrip()[-1:]
    if last in _STOPS:
        return sentence
    east_asian = unicodedata.name(last, "").startswith(_EAST_ASIAN)
    return sentence + ("\N{IDEOGRAPHIC FULL STOP}" if east_asian else ".")


def is_question(prompt: str) -> bool:
    """Whether a prompt asks, so that an answer does not continue it."""
    return prompt.rstrip().endswith(("?", "\N{FULLWIDTH QUESTION MARK}"))


def _needs_space(prompt: str, target: str) -> bool:
    if not prompt or not target or prompt[-1].isspace() or prompt.endswith(_TURN_BEGINS):
        return False
    if _is_unspaced(prompt[-1]):
        return False
    if _is_unspaced(target[0]) and any(map(_is_unspaced, prompt.split()[-1])):
        return False
    return not (_holds_next(prompt) or _holds_previous(target[0]))


def _is_unspaced(char: str) -> bool:
    return unicodedata.name(char, "").startswith(_UNSPACED)


def _holds_next(prompt: str) -> bool:
    last, before = prompt[-1], prompt[-2:-1]
    opening = not before or before.isspace() or unicodedata.category(before) in ("Ps", "Pi")
    if last in _OPENS:
        return opening
    if unicodedata.category(last) == "Pd":  # a hyphen on a word, not a dash between spaces
        return not opening
    return last in _HOLDS_NEXT or unicodedata.category(last) in ("Ps", "Pi", "Sc")


def _holds_previous(char: str) -> bool:
    return char in _HOLDS_PREVIOUS or unicodedata.category(char) in ("Pe", "Pf")

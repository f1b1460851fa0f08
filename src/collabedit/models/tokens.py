"""From text to token ids: where the subject ends, where the target begins, how rows are batched.

Positions are found through the tokenizer's character offsets, never by tokenising pieces
separately, so a subject is found wherever it stands: at the start, mid-prompt, repeated, with
apostrophes or in any script.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from collabedit.editors.contexts import ANSWER
from collabedit.errors import ModelError, RequestError
from collabedit.requests import closed, is_question, join, stem

__all__ = [
    "LEAST_ROWS",
    "Batch",
    "EncodedText",
    "PromptText",
    "batched_indices",
    "batches",
    "check_tokenizer",
    "encode",
    "encode_edits",
    "equal_length_batches",
    "fill_template",
    "leading_special_tokens",
    "pad_right",
]

#: Products of fewer rows than this are summed in a different order from larger ones.
LEAST_ROWS = 32


@dataclass(frozen=True)
class PromptText:
    """A text to encode, with the character span of the subject and an optional continuation.

    Attributes:
        prompt: the text up to the target.
        target: the continuation; empty for none. Its leading space may be left out (:func:`join`).
        subject_span: the subject's first character and the one after its last, or ``None``.
        close: whether the target follows the prompt without joining, as in a chat template.
        again: the span of the subject's mention in the target, if the target repeats it.
    """

    prompt: str
    target: str = ""
    subject_span: tuple[int, int] | None = None
    close: bool = False
    again: tuple[int, int] | None = None

    @property
    def text(self) -> str:
        """Prompt and target, joined as a writer would (:func:`join`)."""
        if self.close or not self.target:
            return self.prompt + self.target
        return join(self.prompt, self.target)

    @property
    def target_begins(self) -> int:
        """Where the target begins in the text, including the white space that belongs to it."""
        return len(self.prompt if self.close else stem(self.prompt))


@dataclass(frozen=True)
class EncodedText:
    """Token ids of a :class:`PromptText`.

    Attributes:
        ids: all token ids, including special tokens that the tokenizer puts in front.
        target_start: index of the target's first token (``len(ids)`` when there is no target).
        subject_last: index of the subject's last token, or ``-1`` when no span was given.
        subject_first: index of its first token, likewise.
        again: index of its last token where the target repeats it, or ``-1``.
    """

    ids: tuple[int, ...]
    target_start: int
    subject_last: int
    subject_first: int = -1
    again: int = -1

    @property
    def target_ids(self) -> tuple[int, ...]:
        """Token ids of the target."""
        return self.ids[self.target_start :]


def leading_special_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The special tokens that the tokenizer puts in front of a text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    marked = zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    return tuple(token for token, _ in takewhile(lambda item: item[1], marked))


def fill_template(
    template: str, prompt: str, subject: str, target: str = "", *, sentence: str | None = None
) -> PromptText:
    """Put a subject into a prompt and the prompt into a context template.

    Args:
        template: a context with ``{}`` where the prompt goes; ``"{}"`` is the bare prompt. With
            ``{answer}`` after it, the target is the whole sentence that goes there (prompt and
            object, or the object alone if the prompt is a question) and what follows it: a full
            stop as the sentence's script writes it.
        prompt: a prompt with ``{}`` where the subject goes.
        subject: the subject.
        target: a continuation.
        sentence: what ``{answer}`` repeats before the target, if that is not the prompt.
    """
    before_prompt, _, after_prompt = template.partition("{}")
    after_prompt, restates, end = after_prompt.partition(ANSWER)
    before_subject, _, after_subject = prompt.partition("{}")
    start = len(before_prompt) + len(before_subject)
    asked = f"{before_subject}{subject}{after_subject}"
    span = (start, start + len(subject))
    if not restates:
        return PromptText(f"{before_prompt}{asked}{after_prompt}", target, span)
    text = f"{before_prompt}{asked.rstrip()}{after_prompt}"
    if not target:
        return PromptText(text, "", span, close=True)
    sentence = prompt if sentence is None else sentence
    again = None
    if not is_question(sentence):
        target = join(sentence.replace("{}", subject), target)
        first = len(text) + sentence.index("{}")
        again = (first, first + len(subject))
    if end.startswith("."):
        target, end = closed(target), end[1:]
    return PromptText(text, f"{target}{end}", span, close=True, again=again)


def encode(tokenizer: Any, texts: Sequence[PromptText]) -> list[EncodedText]:
    """Encode texts, each prompt together with its target.

    Raises:
        ModelError: when the tokenizer cannot report character offsets.
        RequestError: when a subject or a target is left with no token of its own.
    """
    if not texts:
        return []
    _check_fast(tokenizer)
    encoded = tokenizer(
        [text.text for text in texts],
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    rows = zip(
        encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True
    )
    return [_locate(text, *row) for text, row in zip(texts, rows, strict=True)]


def encode_edits(tokenizer: Any, texts: Sequence[PromptText]) -> list[EncodedText]:
    """Encode the texts of edits so that none starts with its subject's last token.

    The first token that a model reads is its attention sink: every token there has nearly the same,
    very large key, and an edit would change the sink instead of the fact. So if a text begins with
    a one-token subject and the tokenizer puts nothing in front of it, a line break goes first.
    (After a special token that the tokenizer does not use that way, the next token may be a sink
    too: in SmolLM2, a key after ``<|im_start|>`` has norm 108, and after a line break 6, as
    elsewhere.)

    Raises:
        ModelError: when the tokenizer cannot report character offsets.
        RequestError: when a subject or a target is left with no token of its own.
    """
    encoded = encode(tokenizer, texts)
    if all(text.subject_last != 0 for text in encoded):
        return encoded
    lead = int(tokenizer("\n", add_special_tokens=False).input_ids[-1])
    return [_led(text, lead) if text.subject_last == 0 else text for text in encoded]


def _led(text: EncodedText, lead: int) -> EncodedText:
    return replace(
        text,
        ids=(lead, *text.ids),
        target_start=text.target_start + 1,
        subject_last=text.subject_last + 1,
        subject_first=text.subject_first + 1,
        again=text.again + 1 if text.again >= 0 else -1,
    )


def _locate(
    text: PromptText, ids: list[int], offsets: list[tuple[int, int]], special: list[int]
) -> EncodedText:
    length = len(ids)
    while length > 1 and special[length - 1]:  # an end-of-text token would end the sentence
        length -= 1
    real = [index for index in range(length) if not special[index]]
    target_start, subject_first, subject_last = length, -1, -1
    if text.target:
        begins = text.target_begins
        inside = [index for index in real if offsets[index][1] > begins]
        if not inside:
            raise RequestError(f"the target {text.target!r} has no token of its own")
        target_start = inside[0]
    if text.subject_span is not None:
        first, end = text.subject_span
        inside = [i for i in real if offsets[i][0] < end and offsets[i][1] > first]
        if not inside:
            raise RequestError(f"the subject in {text.prompt!r} has no token of its own")
        subject_first, subject_last = inside[0], inside[-1]
    again = -1
    if text.again is not None:
        first, end = text.again
        again = max(i for i in real if offsets[i][0] < end and offsets[i][1] > first)
    return EncodedText(tuple(ids[:length]), target_start, subject_last, subject_first, again)


@dataclass(frozen=True)
class Batch:
    """Rows of similar length, padded on the right.

    Attributes:
        index: ``[rows]``, the rows' indices in the sequence that was batched.
        input_ids: ``[rows or more, length]``; rows beyond the index are fillers.
        attention_mask: likewise, 0 on padding.
        lengths: ``[rows]``, numbers of real tokens.
    """

    index: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    lengths: Tensor

    @property
    def rows(self) -> Tensor:
        """``[rows]``: 0, 1, 2, ... to index together with positions."""
        return torch.arange(len(self.lengths), device=self.lengths.device)


def batches(
    rows: Sequence[Sequence[int]], max_tokens: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Yield all rows in batches of at most ``max_tokens`` tokens, the longest first.

    Sorting by length keeps padding small; a row longer than ``max_tokens`` gets a batch of its own.
    """
    for indices in batched_indices([len(row) for row in rows], max_tokens):
        yield pad_right([rows[index] for index in indices], indices, device)


def batched_indices(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """The indices of the rows that share a batch in :func:`batches`, from the rows' lengths."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        width = max(1, lengths[order[start]])
        chunk = order[start : start + max(1, max_tokens // width)]
        start += len(chunk)
        yield chunk


def equal_length_batches(
    rows: Sequence[Sequence[int]], max_tokens: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Yield all rows in batches of rows of one length, so that none is padded.

    The result for a row then does not depend on the rows beside it, as far as products don't
    (:func:`~collabedit.models.precision.rowwise_products`). Matrix kernels take another path for a
    handful of rows, so small batches are filled up with copies, to which no index points.
    """
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(index)
    for width, members in sorted(by_length.items()):
        size = max(1, max_tokens // width)
        for start in range(0, len(members), size):
            chunk = members[start : start + size]
            copies = max(0, -(-LEAST_ROWS // width) - len(chunk))
            yield pad_right([rows[index] for index in chunk], chunk, device, copies=copies)


def pad_right(
    rows: Sequence[Sequence[int]],
    index: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    *,
    copies: int = 0,
) -> Batch:
    """One batch of all ``rows``.

    Args:
        rows: token ids.
        index: the rows' indices; 0, 1, 2, ... by default.
        device: the batch's device.
        copies: how many times the last row is repeated after the others.
    """
    lengths = torch.tensor([len(row) for row in rows])
    filled = [*rows, *([rows[-1]] * copies)]
    input_ids = torch.zeros(len(filled), int(lengths.max()), dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for number, row in enumerate(filled):
        input_ids[number, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[number, : len(row)] = 1
    indices = torch.arange(len(rows)) if index is None else torch.tensor(index)
    return Batch(indices, input_ids.to(device), mask.to(device), lengths.to(device))


def check_tokenizer(tokenizer: Any, embedded: int, name: str) -> None:
    """Check that a tokenizer fits a model.

    Added tokens beyond the embedding, such as a ``[PAD]``, do no harm as long as no text contains
    them.

    Args:
        tokenizer: the tokenizer.
        embedded: how many tokens the model has an embedding for.
        name: what the user called the model.

    Raises:
        ModelError: when it reports no offsets, or when ordinary tokens have no embedding.
    """
    _check_fast(tokenizer)
    if len(tokenizer) <= embedded:  # listing a vocabulary takes long
        return
    added = set(tokenizer.added_tokens_decoder)
    beyond = {id_ for id_ in tokenizer.get_vocab().values() if id_ >= embedded} - added
    front = [id_ for id_ in leading_special_tokens(tokenizer) if id_ >= embedded]
    if beyond or front:
        what = f"{len(beyond)} ordinary tokens" if beyond else "its first token"
        raise ModelError(
            f"{name}: the model has embeddings for {embedded:,} tokens, and {what} of the "
            "tokenizer have none; use the tokenizer that belongs to the model"
        )


def _check_fast(tokenizer: Any) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} reports no character offsets; "
            "use a model with a fast tokenizer (tokenizer.json)"
        )

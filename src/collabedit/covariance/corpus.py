"""Defines a corpus: a source of windows of token ids, in chunks.

A corpus yields *chunks*, each a list of windows of token ids. Resuming works by chunks: chunk
number ``i`` is the same whether or not the chunks before it were requested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from collabedit.models import LanguageModel

__all__ = ["Corpus", "Plan", "Remembered", "Report", "SameText", "Window", "grouped"]

Window = Sequence[int]
Report = Callable[[int], None]


@dataclass(frozen=True)
class Plan:
    """How much to take from a corpus.

    Attributes:
        tokens: total number of tokens.
        max_length: most tokens of a window.
        chunk_tokens: approximate tokens of a chunk of text.
    """

    tokens: int
    max_length: int
    chunk_tokens: int


class Corpus(Protocol):
    """A source of windows of token ids."""

    @property
    def description(self) -> str:
        """What it is, for people; contains none of its text."""

    @property
    def generation_share(self) -> float:
        """The share of the whole work that goes into making the tokens, from 0 to 1."""

    @property
    def default_tokens(self) -> int:
        """How many tokens to take unless the user says otherwise or the model needs more."""

    def identity(self) -> Mapping[str, Any]:
        """Everything that its chunks depend on besides model and plan, as JSON values."""

    def chunks(
        self, model: LanguageModel, plan: Plan, start: int, report: Report
    ) -> Iterator[list[Window]]:
        """Yield the chunks from number ``start`` on.

        Args:
            model: the model whose tokens they are.
            plan: sizes.
            start: number of the first chunk wanted.
            report: called with numbers of tokens as they are made; see ``generation_share``.
        """


class SameText:
    """The text of a corpus, whose chunks a subclass obtains in another way.

    Args:
        corpus: the corpus.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    @property
    def description(self) -> str:
        """The corpus's description."""
        return self._corpus.description

    @property
    def generation_share(self) -> float:
        """As the corpus says."""
        return self._corpus.generation_share

    @property
    def default_tokens(self) -> int:
        """As the corpus says."""
        return self._corpus.default_tokens

    def identity(self) -> Mapping[str, Any]:
        """The corpus's identity."""
        return self._corpus.identity()


class Remembered(SameText):
    """A corpus whose chunks are kept for further passes over them."""

    def __init__(self, corpus: Corpus) -> None:
        super().__init__(corpus)
        self._chunks: dict[int, list[Window]] = {}

    def chunks(
        self, model: LanguageModel, plan: Plan, start: int, report: Report
    ) -> Iterator[list[Window]]:
        """The chunks that are kept, then further ones."""
        while start in self._chunks:
            chunk = self._chunks[start]
            report(sum(map(len, chunk)))
            yield chunk
            start += 1
        for number, fresh in enumerate(self._corpus.chunks(model, plan, start, report), start):
            self._chunks[number] = fresh
            yield fresh


def grouped(pieces: Iterable[Window], tokens: int) -> Iterator[list[Window]]:
    """Group consecutive windows until each group has at least ``tokens`` tokens."""
    group: list[Window] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece)
        if size >= tokens:
            yield group
            group, size = [], 0
    if group:
        yield group

"""Texts that built-in models wrote in advance, so that the first edit need not wait for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from collabedit.covariance.corpus import Corpus, Plan, Report, Window, grouped
from collabedit.covariance.self_corpus import SelfCorpus
from collabedit.models import LanguageModel
from collabedit.models.catalogue import names as builtin_names

__all__ = ["WrittenCorpus", "own_corpus", "written_path"]


@dataclass(frozen=True)
class WrittenCorpus:
    """Text that :class:`SelfCorpus` with seed 0 once sampled from a built-in model.

    Attributes:
        model: the model's name.
    """

    model: str
    generation_share: ClassVar[float] = 0.0
    default_tokens: ClassVar[int] = SelfCorpus.default_tokens

    @property
    def description(self) -> str:
        """Says that the model wrote it."""
        return f"self: sampled from {self.model} at temperature 1, kept with collabedit"

    def identity(self) -> Mapping[str, Any]:
        """The name, and how much text there is."""
        return {"written": self.model, "shape": list(self.texts.shape)}

    @property
    def texts(self) -> NDArray[np.uint16]:
        """Token ids ``[texts, tokens]``."""
        texts: NDArray[np.uint16] = np.load(written_path(self.model), allow_pickle=False)
        return texts

    def chunks(
        self, model: LanguageModel, plan: Plan, start: int, report: Report
    ) -> Iterator[list[Window]]:
        """The texts in order, cut if the plan's windows are shorter."""
        step = plan.max_length
        windows = (
            row[i : i + step] for row in self.texts.tolist() for i in range(0, len(row), step)
        )
        for number, chunk in enumerate(grouped(windows, plan.chunk_tokens)):
            if number >= start:
                report(sum(map(len, chunk)))
                yield chunk


def own_corpus(model: LanguageModel, tokens: int | None, seed: int) -> Corpus:
    """The model's own text: what comes with the package if that suffices, else samples.

    Args:
        model: the model.
        tokens: how many are wanted; ``None`` for the default, which the kept text always covers.
        seed: of the samples.
    """
    if model.name in builtin_names() and written_path(model.name).is_file():
        kept = WrittenCorpus(model.name)
        if tokens is None or tokens <= kept.texts.size:
            return kept
    return SelfCorpus(seed)


def written_path(model: str) -> Path:
    """Where the text of a built-in model is kept, if it is."""
    return Path(__file__).with_name(f"{model}.npy")

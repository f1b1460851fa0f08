"""A corpus of given token ids."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
import torch
from tokenizers import processors

from collabedit.covariance.corpus import Plan, Report, grouped
from collabedit.models import LanguageModel


@dataclass(frozen=True)
class TokenCorpus:
    """Windows of given token ids."""

    windows: Sequence[Sequence[int]]
    description: str = "given tokens"
    generation_share: float = 0.0
    default_tokens: int = 1

    def identity(self) -> Mapping[str, Any]:
        return {"windows": [list(window) for window in self.windows]}

    def chunks(
        self, model: LanguageModel, plan: Plan, start: int, report: Report
    ) -> Iterator[list[Sequence[int]]]:
        yield from islice(grouped(self.windows, plan.chunk_tokens), start, None)


def random_windows(number: int = 40, seed: int = 0) -> list[list[int]]:
    """Windows of random tokens and of lengths from 1 to 30."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 31, (number,), generator=generator).tolist()
    return [torch.randint(2, 250, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture
def corpus() -> TokenCorpus:
    return TokenCorpus(random_windows())


@pytest.fixture
def corpus_tokens(corpus: TokenCorpus) -> int:
    return sum(len(window) for window in corpus.windows)


@pytest.fixture(scope="session")
def make_corpus() -> type[TokenCorpus]:
    return TokenCorpus


@pytest.fixture(scope="session")
def double_llama(tiny_llama: LanguageModel) -> LanguageModel:
    """The tiny Llama in float64, where the order of sums cannot explain a difference."""
    return LanguageModel(copy.deepcopy(tiny_llama.hf).double(), tiny_llama.tokenizer, "tiny-double")


@pytest.fixture
def bos_tokenizer(tiny_llama) -> Any:
    """The tiny tokenizer with a special token before and after every text."""
    tokenizer = copy.deepcopy(tiny_llama.tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer

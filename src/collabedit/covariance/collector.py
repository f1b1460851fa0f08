"""Runs a corpus through a model and adds up products of the down-projections' inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Protocol

import torch

from collabedit.covariance.checkpoint import Checkpoint
from collabedit.covariance.corpus import Corpus, Plan, Report, Window, grouped
from collabedit.covariance.sums import InputProduct, Sums
from collabedit.models import LanguageModel
from collabedit.models.experts import Inputs, tokens_at
from collabedit.models.hooks import captured_inputs, stops_before
from collabedit.models.precision import quick_products
from collabedit.models.tokens import Batch, batches
from collabedit.progress import Progress

__all__ = ["Collector", "Here", "Share", "block_products"]

#: The windows of a block.
Block = Sequence[Window]


class Share(Protocol):
    """Who does the work of a collection; the result is the same, bit for bit."""

    def corpus(self, model: LanguageModel, corpus: Corpus) -> Corpus:
        """A corpus of the same chunks."""

    def products(
        self,
        model: LanguageModel,
        names: Sequence[str],
        blocks: Iterable[Block],
        batch_tokens: int,
        report: Report,
    ) -> Iterator[Mapping[str, InputProduct]]:
        """Yield the products of the down-projections' inputs, block by block.

        Args:
            model: the model.
            names: the weights of the down-projections.
            blocks: taken one at a time, perhaps ahead of the products.
            batch_tokens: tokens of a forward pass.
            report: called with numbers of tokens as they are read.
        """


class Here:
    """Does everything in this process."""

    def corpus(self, _model: LanguageModel, corpus: Corpus) -> Corpus:
        """The corpus itself."""
        return corpus

    def products(
        self,
        model: LanguageModel,
        names: Sequence[str],
        blocks: Iterable[Block],
        batch_tokens: int,
        report: Report,
    ) -> Iterator[Mapping[str, InputProduct]]:
        """Yield the products, always in the same memory: use each before asking for the next."""
        products: dict[str, InputProduct] = {}
        for block in blocks:
            _add_block(model, names, block, batch_tokens, products, report)
            yield products


@dataclass
class Collector:
    """Runs a corpus through the model."""

    model: LanguageModel
    names: Sequence[str]
    corpus: Corpus
    plan: Plan
    batch_tokens: int
    sums: Sums
    share: Share

    def run(self, bar: Progress, checkpoint: Checkpoint | None) -> None:
        """Read the corpus until there are enough tokens."""
        writing = self.corpus.generation_share

        def made(tokens: int) -> None:
            bar.advance(writing * tokens)

        def read(tokens: int) -> None:
            bar.advance((1 - writing) * tokens)

        ahead, behind = tee(self._blocks(made))
        blocks = (block for block, _ in ahead)
        products = self.share.products(self.model, self.names, blocks, self.batch_tokens, read)
        for block_sums, (block, ends_chunk) in zip(products, behind, strict=True):
            samples = sum(map(len, block))
            for name, product in block_sums.items():
                self.sums.squares[name] += product.move_to(self.sums.totals[name]) / samples
            self.sums.samples += samples
            self.sums.blocks += 1
            self.sums.chunks += ends_chunk
            if ends_chunk and checkpoint is not None:
                checkpoint.offer(self.sums)

    def _blocks(self, made: Report) -> Iterator[tuple[Block, bool]]:
        """The blocks still to be read, each with whether it ends its chunk."""
        left = self.plan.tokens - self.sums.samples
        corpus = self.share.corpus(self.model, self.corpus)
        chunks = corpus.chunks(self.model, self.plan, self.sums.chunks, made)
        while left > 0:
            chunk = next(chunks, None)
            if chunk is None:
                return
            blocks = list(grouped(_first(chunk, left), self.plan.chunk_tokens))
            left -= sum(len(window) for block in blocks for window in block)
            for number, block in enumerate(blocks, 1):
                yield block, number == len(blocks)


def block_products(
    model: LanguageModel, names: Sequence[str], block: Block, batch_tokens: int
) -> dict[str, InputProduct]:
    """The products of one block, in separate memory; see :meth:`Share.products`."""
    products: dict[str, InputProduct] = {}
    _add_block(model, names, block, batch_tokens, products, lambda _tokens: None)
    return products


@quick_products()
def _add_block(
    model: LanguageModel,
    names: Sequence[str],
    block: Block,
    batch_tokens: int,
    products: dict[str, InputProduct],
    report: Report,
) -> None:
    for batch in batches(block, batch_tokens, model.device):
        for name, inputs in _inputs(model, names, batch).items():
            products.setdefault(name, InputProduct()).add(inputs)
        report(int(batch.lengths.sum()))


@torch.inference_mode()
def _inputs(model: LanguageModel, names: Sequence[str], batch: Batch) -> dict[str, Inputs]:
    """The down-projections' inputs at the real tokens of a batch."""
    modules = {name: model.module(name.rpartition(".")[0]) for name in names}
    real = batch.attention_mask.bool()
    padded = not bool(real.all())
    with captured_inputs(modules) as inputs, stops_before(modules[names[-1]]):
        model.hf(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask if padded else None,
            use_cache=False,
        )
    chosen = real.flatten() if padded else None
    return {name: tokens_at(value, chosen) for name, value in inputs.items()}


def _first(chunk: Sequence[Window], tokens: int) -> Iterator[Window]:
    """The first ``tokens`` tokens of a chunk; the last window is cut where they end."""
    for window in chunk:
        if tokens <= 0:
            return
        yield window[:tokens]
        tokens -= len(window)

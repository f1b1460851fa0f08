"""Runs a corpus through a model and adds up what the down-projections read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from collabedit.covariance.checkpoint import Checkpoint
from collabedit.covariance.corpus import Corpus, Plan, Window, grouped
from collabedit.covariance.sums import InputProduct, Sums
from collabedit.models import LanguageModel
from collabedit.models.experts import Inputs, tokens_at
from collabedit.models.hooks import captured_inputs, stops_before
from collabedit.models.precision import quick_products
from collabedit.models.tokens import Batch, batches
from collabedit.progress import Progress

__all__ = ["Collector"]


@dataclass
class Collector:
    """Runs a corpus through the model."""

    model: LanguageModel
    names: Sequence[str]
    corpus: Corpus
    plan: Plan
    batch_tokens: int
    sums: Sums
    _products: dict[str, InputProduct] = field(default_factory=dict)

    def run(self, bar: Progress, checkpoint: Checkpoint | None) -> None:
        """Read the corpus until there are enough tokens."""
        share = self.corpus.generation_share

        def made(tokens: int) -> None:
            bar.advance(share * tokens)

        chunks = self.corpus.chunks(self.model, self.plan, self.sums.chunks, made)
        while self.sums.samples < self.plan.tokens:
            chunk = next(chunks, None)
            if chunk is None:
                return
            wanted = list(_first(chunk, self.plan.tokens - self.sums.samples))
            for block in grouped(wanted, self.plan.chunk_tokens):
                self._add_block(block, bar, 1 - share)
            self.sums.chunks += 1
            if checkpoint is not None:
                checkpoint.offer(self.sums)

    @quick_products()
    def _add_block(self, block: Sequence[Window], bar: Progress, share: float) -> None:
        for batch in batches(block, self.batch_tokens, self.model.device):
            for name, inputs in self._inputs(batch).items():
                self._products.setdefault(name, InputProduct()).add(inputs)
            bar.advance(share * int(batch.lengths.sum()))
        samples = sum(len(window) for window in block)
        for name, product in self._products.items():
            self.sums.squares[name] += product.move_to(self.sums.totals[name]) / samples
        self.sums.samples += samples
        self.sums.blocks += 1

    @torch.inference_mode()
    def _inputs(self, batch: Batch) -> dict[str, Inputs]:
        """What the down-projections are given at the real tokens of a batch."""
        modules = {name: self.model.module(name.rpartition(".")[0]) for name in self.names}
        real = batch.attention_mask.bool()
        padded = not bool(real.all())
        with captured_inputs(modules) as inputs, stops_before(modules[self.names[-1]]):
            self.model.hf(
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

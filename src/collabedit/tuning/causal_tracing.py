"""Causal tracing: which layers' states at the subject's last token determine recall.

Meng et al. (ROME, 2022, section 2): noise on the embeddings of the subject's tokens makes the model
forget the object; then restoring the noise-free state at one position recovers part of it.
The *indirect effect* of a position is the resulting rise in the object's probability; its average
over facts and draws of the noise is the curve from which MEMIT's edited layers were chosen.

Restoring changes only what comes after the restored position. So the noisy run's hidden states are
kept, and every restored run starts from them at its layer; the runs of many facts share passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collabedit.models import LanguageModel, hooks
from collabedit.models.memory import pass_tokens
from collabedit.models.tokens import Batch, batches, encode, fill_template
from collabedit.progress import progress
from collabedit.reporting.results import CausalTrace
from collabedit.requests import Record

__all__ = ["CausalTrace", "Fact", "known_facts", "trace"]

#: A fact is known if the object's first token is likelier than the new one's and at least this
#: probable.
KNOWN_PROBABILITY = 0.1
#: Standard deviation of the noise, in units of the subjects' embeddings' own (ROME, section 2.1).
NOISE_SCALE = 3.0

#: Tokens of a pass, and records checked at a time for what the model knows.
_MAX_TOKENS = 2048
_EXAMINED = 64


@dataclass(frozen=True)
class Fact:
    """A prompt whose object the model recalls.

    Attributes:
        ids: the prompt's token ids.
        subject: positions of the subject's tokens.
        answer: the object's first token.
    """

    ids: tuple[int, ...]
    subject: range
    answer: int


def known_facts(
    model: LanguageModel, records: Sequence[Record], count: int
) -> tuple[list[Fact], int]:
    """The first ``count`` records that the model knows, or fewer, and how many were examined.

    A record without a true object cannot be known. Only the object's first token counts, as in
    ROME's code.
    """
    known: list[Fact] = []
    examined = 0
    for start in range(0, len(records), _EXAMINED):
        if len(known) >= count:
            break
        chunk = records[start : start + _EXAMINED]
        examined += len(chunk)
        known += _known(model, [record for record in chunk if record.request.target_true])
    return known[:count], examined


@torch.no_grad()
def _known(model: LanguageModel, records: Sequence[Record]) -> list[Fact]:
    facts, others = _facts(model, records, "target_true"), _facts(model, records, "target_new")
    answers = torch.tensor([[fact.answer for fact in group] for group in (facts, others)]).T
    known = torch.zeros(len(facts), dtype=torch.bool)
    for batch in _batches(model, facts, rows=1):
        true, new = _probabilities(model, batch, answers[batch.index]).T
        known[batch.index] = (true > new) & (true >= KNOWN_PROBABILITY)
    return [fact for fact, is_known in zip(facts, known.tolist(), strict=True) if is_known]


def _facts(model: LanguageModel, records: Sequence[Record], answer: str) -> list[Fact]:
    requests = [record.request for record in records]
    texts = [fill_template("{}", r.prompt, r.subject, getattr(r, answer)) for r in requests]
    return [
        Fact(
            text.ids[: text.target_start],
            range(text.subject_first, text.subject_last + 1),
            text.target_ids[0],
        )
        for text in encode(model.tokenizer, texts)
    ]


@torch.no_grad()
def trace(
    model: LanguageModel,
    facts: Sequence[Fact],
    *,
    examined: int | None = None,
    window: int = 5,
    draws: int = 3,
    noise_scale: float = NOISE_SCALE,
    seed: int = 0,
    quick: bool = True,
    max_tokens: int | None = None,
) -> CausalTrace:
    """Trace facts through a model.

    Args:
        model: the unedited model.
        facts: what it knows; one or more.
        examined: number of records among which they were found.
        window: number of consecutive layers whose MLP outputs are restored together: as many as
            will be edited. ROME takes ten of 48.
        draws: of the noise, for each fact.
        noise_scale: standard deviation of the noise, in units of the subjects' embeddings' own.
        seed: of the noise.
        quick: run in bfloat16 where that is much faster.
        max_tokens: tokens of a pass; by default the fastest number that fits.
    """
    if quick:
        model = model.quick_copy()
    scale = noise_scale * embedding_deviation(model, facts)
    noise = subject_noise(model, facts, draws, scale, seed)
    n_layers = model.structure.n_layers
    window = min(window, n_layers)
    clean = torch.zeros(len(facts))
    corrupted = torch.zeros(len(facts))
    hidden = torch.zeros(n_layers, len(facts))
    mlp = torch.zeros(n_layers - window + 1, len(facts))
    with progress("Causal tracing", len(facts) * (len(hidden) + len(mlp)), "runs") as bar:
        for batch in _batches(model, facts, draws, max_tokens):
            indices = batch.index.tolist()
            states = _CleanRun(model, batch, [facts[index] for index in indices])
            clean[indices] = states.probabilities
            runs = _CorruptedRuns(states, _placed(facts, noise, indices, batch))
            corrupted[indices] = runs.probabilities
            for layer in range(n_layers):
                hidden[layer, indices] = runs.with_hidden_state(layer)
                bar.advance(len(indices))
            for first in range(len(mlp)):
                mlp[first, indices] = runs.with_mlp_outputs(range(first, first + window))
                bar.advance(len(indices))
    return CausalTrace(
        facts=len(facts),
        examined=len(facts) if examined is None else examined,
        draws=draws,
        noise=scale,
        window=window,
        clean=float(clean.mean()),
        corrupted=float(corrupted.mean()),
        hidden=(hidden - corrupted).mean(dim=1).tolist(),
        hidden_error=_standard_errors(hidden - corrupted),
        mlp=(mlp - corrupted).mean(dim=1).tolist(),
        mlp_error=_standard_errors(mlp - corrupted),
    )


def embedding_deviation(model: LanguageModel, facts: Sequence[Fact]) -> float:
    """Standard deviation of all entries of the embeddings of the subjects' tokens."""
    tokens = torch.tensor([fact.ids[position] for fact in facts for position in fact.subject])
    embedding = model.hf.get_input_embeddings()
    return float(embedding(tokens.to(model.device)).float().std())


def subject_noise(
    model: LanguageModel, facts: Sequence[Fact], draws: int, scale: float, seed: int
) -> list[Tensor]:
    """For each fact ``[draws, subject's tokens, hidden_size]``, normal."""
    generator = torch.Generator().manual_seed(seed)
    width = model.hf.get_input_embeddings().weight.shape[1]
    return [
        scale * torch.randn(draws, len(fact.subject), width, generator=generator) for fact in facts
    ]


def _batches(
    model: LanguageModel, facts: Sequence[Fact], rows: int, max_tokens: int | None = None
) -> list[Batch]:
    """All facts in batches, with this many rows per fact in each pass."""
    longest = max((len(fact.ids) for fact in facts), default=1)
    budget = max_tokens or pass_tokens(model, _MAX_TOKENS, read_share=1 / longest)
    return list(batches([fact.ids for fact in facts], max(1, budget // rows), model.device))


def _placed(
    facts: Sequence[Fact], noise: Sequence[Tensor], indices: Sequence[int], batch: Batch
) -> Tensor:
    """The noise of a batch ``[facts * draws, length, hidden_size]``, zero outside the subjects."""
    draws, _, width = noise[0].shape
    placed = torch.zeros(len(indices), draws, batch.input_ids.shape[1], width)
    for row, index in enumerate(indices):
        subject = facts[index].subject
        placed[row, :, subject.start : subject.stop] = noise[index]
    return placed.flatten(0, 1)


class _CleanRun:
    """A batch's run without noise.

    Attributes:
        answers: ``[facts]``, the objects' first tokens.
        last: ``[facts]``, positions of the subjects' last tokens; on the CPU, since layers may be
            on several devices.
        probabilities: ``[facts]``, of the answers.
        hidden: by layer, its output at the subjects' last tokens ``[facts, hidden_size]``.
        mlp: by layer, the down-projection's output there.
    """

    def __init__(self, model: LanguageModel, batch: Batch, facts: Sequence[Fact]) -> None:
        self.model = model
        self.batch = batch
        self.answers = torch.tensor([fact.answer for fact in facts])
        self.last = torch.tensor([fact.subject[-1] for fact in facts])
        layers = range(model.structure.n_layers)
        shape, cells = batch.input_ids.shape, (range(len(facts)), self.last)

        def read(output: Any) -> Tensor:
            states = hooks.hidden_states(output)
            return states.view(*shape, -1)[cells]

        blocks = {layer: model.layer(layer) for layer in layers}
        mlps = {layer: model.projection(layer) for layer in layers}
        with hooks.seen_outputs(blocks, read) as hidden, hooks.seen_outputs(mlps, read) as mlp:
            self.probabilities = _probabilities(model, batch, self.answers[:, None])[:, 0]
        self.hidden: dict[int, Tensor] = hidden
        self.mlp: dict[int, Tensor] = mlp


class _CorruptedRuns:
    """The noisy runs of a batch, several draws per fact, and the effect of restoring states.

    Attributes:
        probabilities: ``[facts]``, of the answers, averaged over draws.
    """

    def __init__(self, clean: _CleanRun, noise: Tensor) -> None:
        self.model = clean.model
        self.clean = clean
        self.draws = len(noise) // len(clean.answers)
        self.answers = clean.answers.repeat_interleave(self.draws)
        batch = clean.batch
        self.batch = Batch(
            batch.index,
            batch.input_ids.repeat_interleave(self.draws, dim=0),
            batch.attention_mask.repeat_interleave(self.draws, dim=0),
            batch.lengths.repeat_interleave(self.draws),
        )
        self.last = clean.last.repeat_interleave(self.draws)
        self.noise = noise
        self._outputs: dict[int, Any] = {}
        layers = {layer: self.model.layer(layer) for layer in range(self.model.structure.n_layers)}
        with hooks.seen_outputs(layers) as outputs:
            self.probabilities = self._run(None, {})
        self._outputs = outputs

    def with_hidden_state(self, layer: int) -> Tensor:
        """``[facts]``: probabilities with the clean output of one layer."""
        hidden = hooks.hidden_states(self._outputs[layer]).clone()
        hidden[range(len(hidden)), self.last] = self._repeated(self.clean.hidden[layer])
        return self._run((layer, hidden), {})

    def with_mlp_outputs(self, layers: range) -> Tensor:
        """``[facts]``: probabilities with the clean MLP outputs of some consecutive layers."""
        below = layers[0] - 1
        start = None if below < 0 else (below, hooks.hidden_states(self._outputs[below]))
        return self._run(
            start,
            {
                self.model.projection(layer): self._repeated(self.clean.mlp[layer])
                for layer in layers
            },
        )

    def _repeated(self, states: Tensor) -> Tensor:
        return states.repeat_interleave(self.draws, dim=0)

    def _run(self, start: tuple[int, Tensor] | None, states: Mapping[nn.Module, Tensor]) -> Tensor:
        """Run the batch with noise.

        Args:
            start: a layer and its output, to begin there; ``None`` for the whole run.
            states: what modules should output at the subjects' last tokens.
        """
        rows, length = self.batch.input_ids.shape
        with ExitStack() as stack:
            stack.enter_context(hooks.added(self.model.hf.get_input_embeddings(), self.noise))
            if start is not None:
                layer, hidden = start
                below = [self.model.layer(number) for number in range(layer)]
                like = self._outputs[layer]
                stack.enter_context(
                    hooks.replaced_layers(below, self.model.layer(layer), like, hidden)
                )
            for module, state in states.items():
                stack.enter_context(hooks.replaced_states(module, (rows, length), self.last, state))
            probabilities = _probabilities(self.model, self.batch, self.answers[:, None])
        return probabilities.view(-1, self.draws).mean(dim=1)


def _probabilities(model: LanguageModel, batch: Batch, tokens: Tensor) -> Tensor:
    """Probabilities after each row's last token, of ``tokens [rows, n]``; on the CPU."""
    with hooks.gathered(model.head, batch.rows, batch.lengths - 1):
        output = model.hf(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        )
    distributions: Tensor = output.logits[0].float().softmax(dim=-1)
    return distributions.gather(1, tokens.to(distributions.device)).cpu()


def _standard_errors(effects: Tensor) -> list[float]:
    """Standard errors of the means over facts of ``[positions, facts]``."""
    facts = effects.shape[1]
    if facts == 1:
        return [0.0] * len(effects)
    errors: list[float] = (effects.std(dim=1) / facts**0.5).tolist()
    return errors

"""Features of answers: a layer's input at their tokens, and what it should output instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from collabedit.models import hooks
from collabedit.models.experts import keys_at
from collabedit.models.language_model import LanguageModel
from collabedit.models.memory import pass_tokens
from collabedit.models.precision import quick_products
from collabedit.models.tokens import Batch, EncodedText, encode, equal_length_batches, fill_template
from collabedit.progress import progress
from collabedit.requests import EditRequest

__all__ = ["answer_features"]

#: Tokens in one forward and backward pass.
MAX_TOKENS = 1024


@quick_products()
def answer_features(
    model: LanguageModel, requests: Sequence[EditRequest], layers: Sequence[int]
) -> dict[int, Tensor]:
    """Keys and gradients at the tokens of the new objects, by one backward pass (UltraEdit).

    The features at each position that predicts a token of an answer are the down-projection's input
    and the gradient, with respect to its output, of the answer's negative log-likelihood after the
    bare prompt. The official code takes the mean over the tokens of a batch, a factor that
    normalising removes. The texts of a pass all have the same length, so an edit's features do not
    depend on the edits measured with it.

    Args:
        model: the model in its current state.
        requests: ``n`` edits, whose answers have ``t`` tokens in total.
        layers: the edited ones.

    Returns:
        By layer, ``[d_in + d_out, t]``, float64, on the CPU: keys above gradients, in the order of
        the requests.
    """
    filled = [fill_template("{}", r.prompt, r.subject, r.target_new) for r in requests]
    texts = encode(model.tokenizer, filled)
    features: dict[int, dict[int, Tensor]] = {layer: {} for layer in layers}
    size = pass_tokens(model, MAX_TOKENS)
    with progress("Measuring gradients", len(texts), "texts") as bar:
        for batch in equal_length_batches([text.ids[:-1] for text in texts], size, model.device):
            chosen = [texts[index] for index in batch.index]
            for layer, columns in _batch_features(model, batch, chosen, layers).items():
                parts = columns.split([len(text.target_ids) for text in chosen], dim=1)
                features[layer].update(zip(batch.index.tolist(), parts, strict=True))
            bar.advance(len(chosen))
    return {
        layer: torch.cat([parts[index] for index in range(len(texts))], dim=1)
        for layer, parts in features.items()
    }


def _batch_features(
    model: LanguageModel, batch: Batch, texts: Sequence[EncodedText], layers: Sequence[int]
) -> Mapping[int, Tensor]:
    shape = batch.input_ids.shape
    rows, columns, tokens = _answers(texts)
    with torch.enable_grad(), ExitStack() as stack:
        projections = {layer: model.projection(layer) for layer in layers}
        inputs = stack.enter_context(hooks.captured_inputs(projections))
        changes = {}
        for layer, projection in projections.items():
            change = torch.zeros(*shape, model.structure.hidden_size, requires_grad=True)
            stack.enter_context(hooks.added(projection, change))
            changes[layer] = change
        stack.enter_context(hooks.gathered(model.head, rows, columns))
        logits = model.hf(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).logits[0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = cross_entropy(logits, tokens.to(logits.device), reduction="sum")
        gradients = torch.autograd.grad(loss, list(changes.values()))
    features = {}
    for layer, gradient in zip(layers, gradients, strict=True):
        keys = keys_at(inputs[layer], rows * shape[1] + columns).cpu().double()
        features[layer] = torch.cat([keys, gradient[rows, columns].cpu().double()], dim=1).T
    return features


def _answers(texts: Sequence[EncodedText]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of the positions that predict the answers, and the answers' tokens."""
    predictions = [
        (row, column, text.ids[column + 1])
        for row, text in enumerate(texts)
        for column in range(text.target_start - 1, len(text.ids) - 1)
    ]
    rows, columns, tokens = (torch.tensor(part) for part in zip(*predictions, strict=True))
    return rows, columns, tokens

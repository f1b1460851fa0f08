"""Measuring keys and hidden states at the subject's last token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from collabedit.editing.texts import texts_in
from collabedit.editors import Contexts, context_weights
from collabedit.editors.contexts import BARE
from collabedit.models import hooks
from collabedit.models.experts import keys_at
from collabedit.models.language_model import LanguageModel
from collabedit.models.memory import pass_tokens
from collabedit.models.precision import quick_products
from collabedit.models.tokens import Batch, PromptText, encode_edits, equal_length_batches
from collabedit.progress import progress
from collabedit.requests import EditRequest

__all__ = ["Measurement", "measure"]

#: Tokens in one forward pass; passes end at the edited layers, so memory stays small.
MAX_TOKENS = 4096


@dataclass(frozen=True)
class Measurement:
    """What the model in its current state computes for ``n`` requests.

    Attributes:
        keys: by layer, ``K [d_in, n]``, float64: the down-projection's input at the subject's last
            token, averaged over contexts.
        hidden: ``[d_out, n]``, float64: the output of the last edited layer's site
            (:meth:`LanguageModel.site`) at the subject's last token in the bare prompt.
    """

    keys: dict[int, Tensor]
    hidden: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[Measurement]) -> Measurement:
        """The measurement of several parts' requests, pooled."""
        return cls(
            {
                layer: torch.cat([part.keys[layer] for part in parts], dim=1)
                for layer in parts[0].keys
            },
            torch.cat([part.hidden for part in parts], dim=1),
        )


@quick_products()
@torch.no_grad()
def measure(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    layers: Sequence[int],
    output_layer: int,
    *,
    max_tokens: int | None = None,
) -> Measurement:
    """Measure keys at some layers and the hidden state at the output of one.

    A key is the mean over template groups of the mean within the group (MEMIT, ``compute_ks``), so
    the bare prompt weighs one half. Texts end at the subject's last token and passes at the last
    layer needed, since nothing after them matters. The texts of one pass all have the same length,
    so a request's key does not depend on the requests measured with it.

    Args:
        model: the model in its current state.
        requests: ``n`` edits.
        contexts: template groups; the first template is the bare prompt.
        layers: where keys are measured.
        output_layer: the last edited layer.
        max_tokens: tokens in one forward pass; by default the fastest number that fits.
    """
    max_tokens = max_tokens or pass_tokens(model, MAX_TOKENS)
    n = len(requests)
    filled, edits, weights = _key_texts(requests, contexts)
    encoded = encode_edits(model.tokenizer, filled)
    texts = [text.ids[: text.subject_last + 1] for text in encoded]
    result = Measurement(
        {layer: torch.zeros(model.structure.mlp_size, n, dtype=torch.float64) for layer in layers},
        torch.zeros(model.structure.hidden_size, n, dtype=torch.float64),
    )
    with progress("Measuring keys", len(texts), "texts") as bar:
        for batch in equal_length_batches(texts[:n], max_tokens, model.device):
            inputs, hidden = _last_token_pass(model, batch, layers, output_layer)
            _add_keys(result, inputs, batch.index, weights[batch.index])
            result.hidden[:, batch.index] = hidden.mT
            bar.advance(len(batch.index))
        for batch in equal_length_batches(texts[n:] if layers else [], max_tokens, model.device):
            inputs, _ = _last_token_pass(model, batch, layers, max(layers))
            rest = n + batch.index
            _add_keys(result, inputs, edits[rest], weights[rest])
            bar.advance(len(batch.index))
    return result


def _key_texts(
    requests: Sequence[EditRequest], contexts: Contexts
) -> tuple[list[PromptText], Tensor, Tensor]:
    """All texts, bare prompts first, with each one's edit and its weight in the mean key."""
    bare: list[tuple[int, PromptText, float]] = []
    others: list[tuple[int, PromptText, float]] = []
    for template, weight in context_weights(contexts):
        for edit, request in enumerate(requests):
            first, *more = texts_in(template, request, target=False)
            share = weight / (1 + len(more))
            (bare if template == BARE else others).append((edit, first, share))
            others += [(edit, text, share) for text in more]
    edits, texts, weights = zip(*bare, *others, strict=True)
    return list(texts), torch.tensor(edits), torch.tensor(weights, dtype=torch.float64)


def _add_keys(
    result: Measurement, inputs: dict[int, Tensor], edits: Tensor, weights: Tensor
) -> None:
    for layer, keys in inputs.items():
        result.keys[layer].index_add_(1, edits, keys.mT * weights)


def _last_token_pass(
    model: LanguageModel, batch: Batch, layers: Sequence[int], last_layer: int
) -> tuple[dict[int, Tensor], Tensor]:
    """Projection inputs ``[rows, d_in]`` by layer, and the last site's output ``[rows, d_out]``."""
    end = model.site(last_layer)
    shape = (*batch.input_ids.shape, -1)
    with ExitStack() as stack:
        inputs = stack.enter_context(
            hooks.captured_inputs({layer: model.projection(layer) for layer in layers})
        )
        outputs = stack.enter_context(hooks.seen_outputs({last_layer: end}))
        stack.enter_context(hooks.stops_after(end))
        model.hf(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    rows, last = batch.rows.cpu(), batch.lengths.cpu() - 1
    tokens = rows * batch.input_ids.shape[1] + last  # on the CPU; inputs may be on any device
    hidden = hooks.hidden_states(outputs[last_layer]).view(shape)[rows, last]
    return (
        {layer: keys_at(inputs[layer], tokens).cpu().double() for layer in layers},
        hidden.cpu().double(),
    )

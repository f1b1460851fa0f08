"""Measuring keys and hidden states at the subject's last token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from collabedit.editing.contexts import Contexts, context_weights
from collabedit.models import hooks
from collabedit.models.language_model import LanguageModel
from collabedit.models.tokens import batches, encode, fill_template
from collabedit.progress import progress
from collabedit.requests import EditRequest

__all__ = ["Measurement", "measure"]

#: Tokens in one forward pass; passes end at the edited layers, so memory stays small.
MAX_TOKENS = 4096


@dataclass(frozen=True)
class Measurement:
    """What the model, as it is now, holds about ``n`` requests.

    Attributes:
        keys: by layer, ``K [d_in, n]``, float64: the down-projection's input at the subject's last
            token, averaged over contexts.
        hidden: ``[d_out, n]``, float64: the output of the last edited layer at the subject's last
            token of the bare prompt.
    """

    keys: dict[int, Tensor]
    hidden: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[Measurement]) -> Measurement:
        """The measurement of the pooled requests of several."""
        return cls(
            {
                layer: torch.cat([part.keys[layer] for part in parts], dim=1)
                for layer in parts[0].keys
            },
            torch.cat([part.hidden for part in parts], dim=1),
        )


@torch.no_grad()
def measure(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    layers: Sequence[int],
    output_layer: int,
    *,
    max_tokens: int = MAX_TOKENS,
) -> Measurement:
    """Measure keys at some layers and the hidden state at the output of one.

    A key is the mean over template groups of the mean within the group (MEMIT, ``compute_ks``), so
    the bare prompt weighs one half. Texts end at the subject's last token and passes at the layer
    needed last, since nothing after them matters.

    Args:
        model: the model in its current state.
        requests: ``n`` edits.
        contexts: template groups; the first template is the bare prompt.
        layers: where keys are measured.
        output_layer: the last edited layer.
        max_tokens: tokens in one forward pass.
    """
    weighted = context_weights(contexts)
    n = len(requests)
    d_in, d_out = model.structure.mlp_size, model.structure.hidden_size
    result = Measurement(
        {layer: torch.zeros(d_in, n, dtype=torch.float64) for layer in layers},
        torch.zeros(d_out, n, dtype=torch.float64),
    )
    with progress("Measuring keys", n * len(weighted), "texts") as bar:
        for place, (template, weight) in enumerate(weighted):
            texts = [fill_template(template, r.prompt, r.subject) for r in requests]
            rows = [row.ids[: row.subject_last + 1] for row in encode(model.tokenizer, texts)]
            bare = place == 0
            for batch in batches(rows, max_tokens, model.device):
                inputs, hidden = _last_token_pass(
                    model, batch.input_ids, batch.attention_mask, batch.lengths - 1,
                    layers, output_layer if bare else max(layers),
                )
                for layer in layers:
                    result.keys[layer][:, batch.index] += weight * inputs[layer].T
                if bare:
                    result.hidden[:, batch.index] = hidden.T
                bar.advance(len(batch.index))
    return result


def _last_token_pass(
    model: LanguageModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    positions: Tensor,
    layers: Sequence[int],
    last_layer: int,
) -> tuple[dict[int, Tensor], Tensor]:
    """Projection inputs by layer, and the last layer's output, at one position a row."""
    rows = torch.arange(len(positions), device=positions.device)
    end = model.layer(last_layer)
    with ExitStack() as stack:
        inputs = stack.enter_context(
            hooks.captured_inputs({layer: model.projection(layer) for layer in layers})
        )
        outputs = stack.enter_context(hooks.seen_outputs({last_layer: end}))
        stack.enter_context(hooks.stops_after(end))
        model.hf(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    return (
        {layer: inputs[layer][rows, positions].cpu().double() for layer in layers},
        hooks.hidden_states(outputs[last_layer])[rows, positions].cpu().double(),
    )

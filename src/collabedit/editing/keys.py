"""Measuring keys and hidden states at the subject's last token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from collabedit.editing.texts import texts_in
from collabedit.editors import Contexts, key_weights
from collabedit.editors.contexts import BARE
from collabedit.models import hooks
from collabedit.models.experts import keys_at
from collabedit.models.language_model import LanguageModel
from collabedit.models.memory import pass_tokens
from collabedit.models.precision import rowwise_products
from collabedit.models.tokens import Batch, PromptText, encode_edits, equal_length_batches
from collabedit.progress import progress
from collabedit.requests import EditRequest

__all__ = ["Measurement", "measure"]

#: Tokens in one forward pass; passes end at the edited layers, so memory stays small.
MAX_TOKENS = 4096


@dataclass(frozen=True)
class Measurement:
    """What the model in its current state computes for ``n`` requests with ``k`` keys each.

    The keys of a request are neighbouring columns. There is one, or two if plain texts and
    conversations have a key each.

    Attributes:
        keys: by layer, ``K [d_in, n k]``, float64: the down-projection's input at the subject's
            last token, averaged over the key's contexts.
        hidden: ``[d_out, n k]``, float64: the output of the last edited layer's site
            (:meth:`LanguageModel.site`) at the subject's last token: for the first key of a
            request in the bare prompt, for the second averaged over the conversations.
    """

    keys: dict[int, Tensor]
    hidden: Tensor

    def first_keys(self, per_request: int) -> Measurement:
        """Only the first of every request's ``k`` keys."""
        keys = {layer: keys[:, ::per_request] for layer, keys in self.keys.items()}
        return Measurement(keys, self.hidden[:, ::per_request])

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


@rowwise_products()
@torch.no_grad()
def measure(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    layers: Sequence[int],
    output_layer: int,
    *,
    separate: bool = False,
    max_tokens: int | None = None,
) -> Measurement:
    """Measure keys at some layers and the hidden state at the output of one.

    A key is the mean over template groups of the mean within the group (MEMIT, ``compute_ks``), so
    the bare prompt weighs one half of plain texts. Texts end at the subject's last token and
    passes at the last layer needed, since nothing after them matters. The texts of one pass all
    have the same length, and products are computed row by row, so a request's key does not depend
    on the requests measured with it.

    Args:
        model: the model in its current state.
        requests: ``n`` edits.
        contexts: template groups; the first template is the bare prompt.
        layers: where keys are measured.
        output_layer: the last edited layer.
        separate: whether plain texts and conversations have a key each, if there are both.
        max_tokens: tokens in one forward pass; by default the fastest number that fits.
    """
    max_tokens = max_tokens or pass_tokens(model, MAX_TOKENS)
    whole, rest, columns = _key_texts(requests, contexts, separate)
    mlp_size, hidden_size = model.structure.mlp_size, model.structure.hidden_size
    result = Measurement(
        {layer: torch.zeros(mlp_size, columns, dtype=torch.float64) for layer in layers},
        torch.zeros(hidden_size, columns, dtype=torch.float64),
    )
    rest = rest if layers else []
    with progress("Measuring keys", len(whole) + len(rest), "texts") as bar:
        for texts, end in ((whole, output_layer), (rest, max(layers, default=output_layer))):
            encoded = encode_edits(model.tokenizer, [text.text for text in texts])
            ids = [text.ids[: text.subject_last + 1] for text in encoded]
            for batch in equal_length_batches(ids, max_tokens, model.device):
                inputs, hidden = _last_token_pass(model, batch, layers, end)
                _add(result, inputs, hidden, [texts[i] for i in batch.index.tolist()])
                bar.advance(len(batch.index))
    return result


@dataclass(frozen=True)
class _KeyText:
    """A text, the column that it counts in, and its weights in the key and hidden state there."""

    text: PromptText
    column: int
    weight: float
    hidden_weight: float


def _key_texts(
    requests: Sequence[EditRequest], contexts: Contexts, separate: bool
) -> tuple[list[_KeyText], list[_KeyText], int]:
    """The texts whose hidden state counts, bare prompts first; the others; number of columns."""
    whole: list[_KeyText] = []
    rest: list[_KeyText] = []
    keys = key_weights(contexts, separate=separate)
    for key, (template, weight) in [(i, one) for i, own in enumerate(keys) for one in own]:
        for edit, request in enumerate(requests):
            column = edit * len(keys) + key
            texts = list(texts_in(template, request, target=False))
            share = weight / len(texts)
            for index, text in enumerate(texts):
                of_hidden = share if key else float(template == BARE and index == 0)
                chosen = whole if of_hidden else rest
                chosen.append(_KeyText(text, column, share, of_hidden))
    return whole, rest, len(requests) * len(keys)


def _add(
    result: Measurement, inputs: dict[int, Tensor], hidden: Tensor, texts: Sequence[_KeyText]
) -> None:
    columns = torch.tensor([text.column for text in texts])
    weights = torch.tensor([text.weight for text in texts], dtype=torch.float64)
    for layer, keys in inputs.items():
        result.keys[layer].index_add_(1, columns, keys.mT * weights)
    counting = torch.tensor([text.hidden_weight for text in texts], dtype=torch.float64)
    if counting.any():
        result.hidden.index_add_(1, columns, hidden.mT * counting)


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

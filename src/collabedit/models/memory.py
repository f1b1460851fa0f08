"""How much of a stage fits into one pass within the user's memory budget."""

from __future__ import annotations

from torch import Tensor

from collabedit.models.language_model import LanguageModel

__all__ = [
    "HIDDEN_WIDTHS",
    "LOGIT_COPIES",
    "MLP_WIDTHS",
    "head_bytes",
    "least_budget",
    "pass_tokens",
    "texts_at_once",
]

#: Activations of one layer for one token, in hidden and in MLP widths: norms, queries, keys,
#: values, attention's output and residual; gate, up, activation and their product.
HIDDEN_WIDTHS, MLP_WIDTHS = 12, 4
#: The share of a budget that is planned for: not all freed memory is reused, and products make
#: reordered copies.
_USABLE = 0.5
#: Copies of the head that fit into the least budget.
_HEADS = 4
#: Copies of a token's logits: the product, the log-softmax and its gradient.
LOGIT_COPIES = 3


def least_budget(model: LanguageModel) -> int:
    """The budget in bytes below which a stage exceeds it, however little it does at once.

    Four times the head: products reorder it, forward and backward, and the rest is less.
    """
    return _HEADS * head_bytes(model)


def head_bytes(model: LanguageModel) -> int:
    """Bytes of the output embedding, which are taken again wherever a product reorders it."""
    weight: Tensor = model.head.weight  # type: ignore[assignment]
    return weight.nbytes


def pass_tokens(
    model: LanguageModel,
    most: int,
    *,
    read_share: float = 0.0,
    kept_layers: int = 0,
    reserved: float = 0.0,
) -> int:
    """Tokens of one pass: ``most``, or fewer where the model's memory budget is tighter.

    Args:
        model: the model; its ``memory_budget`` counts beyond its weights.
        most: the fastest number.
        read_share: share of the tokens that logits are computed for.
        kept_layers: layers whose activations are kept for a backward pass.
        reserved: bytes of the budget that something else takes.
    """
    if model.memory_budget is None:
        return most
    layer = HIDDEN_WIDTHS * model.structure.hidden_size + MLP_WIDTHS * model.structure.active_size
    vocabulary = len(model.head.weight)  # type: ignore[arg-type]
    activations = (1 + kept_layers) * layer * model.dtype.itemsize
    logits = read_share * LOGIT_COPIES * 4 * vocabulary
    return max(1, min(most, int(_usable(model.memory_budget, reserved) / (activations + logits))))


def texts_at_once(
    model: LanguageModel, most: int, tokens: int, layers: int, *, reserved: float = 0.0
) -> int:
    """Texts whose keys and values are held together: ``most``, or fewer where memory is tight.

    Args:
        model: the model.
        most: the fastest number.
        tokens: length of one text.
        layers: number of layers whose keys and values are held.
        reserved: bytes of the budget that something else takes.
    """
    if model.memory_budget is None:
        return most
    text_bytes = tokens * 2 * layers * model.structure.hidden_size * model.dtype.itemsize
    room = _usable(model.memory_budget, reserved)
    return max(1, min(most, int(room / text_bytes))) if text_bytes else most


def _usable(budget: int, reserved: float) -> float:
    return _USABLE * max(0.0, budget - reserved)

"""Operations and memory of every stage, counted from the shape of a model.

The count covers products with weights, ``2 * numbers`` per token, and products of ``d_in x d_in``
matrices; attention's own products add a few percent at the lengths of edits. Texts have the average
length of those in the shipped data set.

With ``P`` numbers in a layer's matrices, ``L`` layers, of which ``k`` are edited and number ``e``
is the last edited one, hidden size ``h``, MLP size ``d``, vocabulary ``V``, and ``n`` edits:

| stage | operations |
|---|---|
| covariance | ``T`` tokens to the last edited layer, ``5/4 T d^2`` for each edited one |
| | ``T`` tokens through the whole model if it writes the text itself |
| targets | texts once through all layers; from the subject on, ``2 S - 1`` times through those
              above the last edited one and the head, in ``S`` steps |
| keys | texts in all contexts to the last edited layer, at each exchange |
| merge | ``d^3 / 3`` for each prior's factor, then ``2 d^2 n`` |
| evaluation | all prompts through all layers and the head, before and after |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from collabedit.editing.keys import MAX_TOKENS as KEYS_TOKENS
from collabedit.editing.target_batches import MAX_EDITS, MAX_QUICK_TOKENS
from collabedit.editing.target_batches import MAX_TOKENS as TARGET_TOKENS
from collabedit.editors import Editor, Hyperparameters
from collabedit.messages import Schedule
from collabedit.models.memory import HIDDEN_WIDTHS, LOGIT_COPIES, MLP_WIDTHS
from collabedit.models.structure import ModelStructure
from collabedit.parties.fine_tuning import MAX_TOKENS as FINE_TUNING_TOKENS

__all__ = ["STAGES", "Cost", "ModelShape", "Workload", "estimate", "peak"]

#: The stages of an edit, in order.
STAGES = ("load", "covariance", "targets", "keys", "merge", "evaluation", "save")

#: Tokens in a pass of the stages whose numbers are not imported, unless a budget allows fewer.
_COVARIANCE_TOKENS, _EVALUATION_TOKENS = 2048, 512
_READ_SHARE = 0.5
#: Texts that the model writes together, and their length.
_SAMPLED_ROWS, _SAMPLED_LENGTH = 80, 128
#: Matrices needed to make a prior, and those that a finished prior keeps.
_MADE, _KEPT = 4, 2
#: Bytes of the interpreter and its libraries.
_PROGRAM = 450_000_000
_FLOAT64 = 8


@dataclass(frozen=True)
class ModelShape:
    """The sizes that costs follow from.

    Attributes:
        numbers: how many numbers all parameters have.
        layer_numbers: how many the matrices of one layer have.
        layers: ``L``.
        hidden: ``h``.
        mlp: ``d``.
        vocabulary: ``V``.
        key_value: width of a token's keys, and of its values, in one layer.
        experts: number of a layer's experts, which share ``d``; 1 if all tokens use one MLP.
        idle_numbers: how many numbers of a layer's experts a token does not use.
        routed: number of experts that a token uses.
    """

    numbers: int
    layer_numbers: int
    layers: int
    hidden: int
    mlp: int
    vocabulary: int
    key_value: int
    experts: int = 1
    idle_numbers: int = 0
    routed: int = 1

    @property
    def quick_copy_bytes(self) -> int:
        """Bytes of the copy of the layers' matrices in bfloat16."""
        return 2 * self.layers * (self.layer_numbers + self.idle_numbers)

    @property
    def width(self) -> float:
        """Width of a block of the second moments: ``d``, or an expert's part of it."""
        return self.mlp / self.experts

    @property
    def active(self) -> float:
        """Entries of a key that a token uses."""
        return self.width * self.routed

    def has_room_for_quick_copy(self, memory_budget: int | None) -> bool:
        """Whether the copy, and the head laid out for products, leave half the budget free."""
        fixed = self.quick_copy_bytes + 4 * self.vocabulary * self.hidden
        return memory_budget is None or 2 * fixed <= memory_budget

    @classmethod
    def of(cls, hf: Any, structure: ModelStructure) -> ModelShape:
        """The shape of a ``transformers`` model; weights on the meta device will do."""
        layer = hf.get_submodule(structure.layer_path(0))
        config = hf.config.get_text_config()
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        size = getattr(config, "head_dim", None) or structure.hidden_size // heads
        dense = sum(p.numel() for p in layer.parameters() if p.ndim == 2)
        sparse = sum(p.numel() for p in layer.parameters() if p.ndim == 3)
        used = sparse * structure.active_size // structure.mlp_size
        return cls(
            numbers=sum(p.numel() for p in hf.parameters()),
            layer_numbers=dense + used,
            layers=structure.n_layers,
            hidden=structure.hidden_size,
            mlp=structure.mlp_size,
            vocabulary=_rows(hf.get_submodule(structure.head)),
            key_value=groups * size,
            experts=structure.blocks,
            idle_numbers=sparse - used,
            routed=structure.active_size * structure.blocks // structure.mlp_size,
        )


@dataclass(frozen=True)
class Texts:
    """Average token counts of the texts of an edit; by default those of the shipped data set.

    Attributes:
        tokens: tokens of the prompt and its target, except the last one.
        suffix: those from the subject's last token on.
        target: tokens of a target.
        contexts: number of contexts besides the bare prompt.
        context: tokens of a context's prefix.
        prompts: number of prompts that measure an edit.
        keys: number of keys of an edit.
    """

    tokens: float = 11.0
    suffix: float = 6.0
    target: float = 1.1
    contexts: int = 5
    context: float = 12.0
    prompts: float = 11.0
    keys: int = 1


@dataclass(frozen=True)
class Workload:
    """The work to be done, all of it on one machine.

    Attributes:
        edits: number of edits of all parties.
        editor: the editor.
        schedule: how residuals reach the layers.
        hyperparameters: layers and steps.
        tokens: tokens of the covariance; 0 if it already exists.
        own_text: whether the model writes the covariance's text itself.
        itemsize: bytes of a weight.
        quick: whether targets are found on a copy in bfloat16.
        memory_budget: bytes beyond the weights that one stage may take.
        texts: lengths of the texts.
    """

    edits: int
    editor: Editor
    schedule: Schedule
    hyperparameters: Hyperparameters
    tokens: int
    own_text: bool = True
    itemsize: int = 4
    quick: bool = False
    memory_budget: int | None = None
    texts: Texts = Texts()

    @property
    def edited(self) -> int:
        """Number of edited layers, ``k``."""
        return len(self.hyperparameters.layers)

    @property
    def last(self) -> int:
        """The last edited layer, ``e``."""
        return self.hyperparameters.layers[-1]

    def with_changes(self, **changes: Any) -> Workload:
        """A copy with some fields replaced."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Cost:
    """What a stage costs.

    Attributes:
        memory: bytes at its peak, including weights and program.
        amount: operations, or bytes for stages that read or write a file (``load``, ``save``).
    """

    memory: float
    amount: float


def estimate(shape: ModelShape, work: Workload) -> dict[str, Cost]:
    """The cost of every stage that the editor needs.

    Args:
        shape: the model's shape.
        work: the work to estimate.
    """
    beside = {
        "load": 0.0,
        "targets": _targets_memory(shape, work)
        if work.editor.has_statistics
        else _fine_tuning_memory(shape, work),
        "keys": _keys_memory(shape, work),
        "covariance": _covariance_memory(shape, work),
        "merge": _merge_memory(shape, work),
        "evaluation": _pass_memory(shape, work, _EVALUATION_TOKENS, read_share=_READ_SHARE),
        "save": 2 * _FLOAT64 * shape.hidden * shape.mlp,
    }
    size = shape.numbers * work.itemsize
    amounts = {
        "load": size,
        "covariance": _covariance_operations(shape, work),
        "targets": _targets_operations(shape, work)
        if work.editor.has_statistics
        else _fine_tuning_operations(shape, work),
        "keys": _keys_operations(shape, work),
        "merge": _merge_operations(shape, work),
        "evaluation": 2 * _evaluation_operations(shape, work),
        "save": size,
    }
    left_out = set() if work.editor.has_statistics else {"covariance", "keys", "merge"}
    if not work.tokens:
        left_out.add("covariance")
    return {
        stage: Cost(_PROGRAM + size + beside[stage], amounts[stage])
        for stage in STAGES
        if stage not in left_out
    }


def peak(costs: Mapping[str, Cost]) -> tuple[str, float]:
    """The stage that takes the most memory, and its bytes."""
    stage = max(costs, key=lambda name: costs[name].memory)
    return stage, costs[stage].memory


def _rows(head: nn.Module) -> int:
    return len(head.weight)  # type: ignore[arg-type]


def _forward(shape: ModelShape, layers: float, tokens: float, read: float = 0.0) -> float:
    """Operations of ``tokens`` through some layers; the head reads ``read`` of them."""
    return 2 * (layers * shape.layer_numbers * tokens + shape.vocabulary * shape.hidden * read)


def _covariance_operations(shape: ModelShape, work: Workload) -> float:
    """The text is written once; each pass ends at the down-projection of its last layer."""
    tokens, together = work.tokens, layers_at_once(shape, work)
    ends = [*work.hyperparameters.layers[together - 1 :: together], work.last]
    passes = ends[: -(-work.edited // together)]
    down = shape.hidden * shape.active / shape.layer_numbers
    forward = sum(_forward(shape, end + 1 - down, tokens) for end in passes)
    moments = work.edited * 1.25 * tokens * shape.active * shape.width
    return forward + moments + work.own_text * _forward(shape, shape.layers, tokens, tokens)


def _targets_operations(shape: ModelShape, work: Workload) -> float:
    texts = work.edits * (1 + work.texts.contexts)
    whole = texts * work.texts.tokens + work.edits * work.texts.contexts * work.texts.context
    suffix = texts * work.texts.suffix + work.edits  # one token of each text that must not change
    read = texts * work.texts.target + work.edits
    above = shape.layers - work.last - 1
    passes = 2 * work.hyperparameters.target_steps - 1
    return _forward(shape, shape.layers, whole) + passes * _forward(shape, above, suffix, read)


def _fine_tuning_operations(shape: ModelShape, work: Workload) -> float:
    tokens, read = work.edits * work.texts.tokens, work.edits * work.texts.target
    forward = _forward(shape, shape.layers, tokens, read)
    backward = _forward(shape, shape.layers - work.last, tokens, read)
    gradient = 2 * shape.hidden * shape.active * tokens
    return work.hyperparameters.ft_steps * (forward + backward + gradient)


def _keys_operations(shape: ModelShape, work: Workload) -> float:
    """In an exchange, bare prompts run to the last edited layer, others to the exchange's last."""
    bare = work.edits * (work.texts.tokens - work.texts.suffix + 1)
    others = work.texts.contexts * (bare + work.edits * work.texts.context)
    layers = work.hyperparameters.layers
    ends = layers if work.schedule is Schedule.LAYERWISE else layers[-1:]
    return sum(
        _forward(shape, work.last + 1, bare) + _forward(shape, end + 1, others) for end in ends
    )


def _merge_operations(shape: ModelShape, work: Workload) -> float:
    rank = min(work.edits * work.texts.keys, shape.mlp)
    factor, whitened = shape.mlp * shape.width**2 / 3, 2 * shape.mlp * shape.width * rank
    return work.edited * (factor + whitened + 2 * shape.mlp * rank**2)


def _evaluation_operations(shape: ModelShape, work: Workload) -> float:
    prompts = work.edits * work.texts.prompts
    return _forward(shape, shape.layers, prompts * work.texts.tokens, prompts)


def layers_at_once(shape: ModelShape, work: Workload) -> int:
    """The number of layers whose second moments are collected together."""
    if work.memory_budget is None:
        return work.edited
    fitting = int(work.memory_budget / 2 / _sums_memory(shape, work))
    return max(1, min(work.edited, fitting))


def _sums_memory(shape: ModelShape, work: Workload) -> float:
    """A float64 sum, and 5/8 of a block's product."""
    return shape.mlp * shape.width * (_FLOAT64 + max(4, work.itemsize) * 5 / 8)


def _pass_memory(
    shape: ModelShape,
    work: Workload,
    tokens: float,
    *,
    read_share: float = 0.0,
    kept_layers: int = 0,
) -> float:
    """Activations and logits of a pass of so many tokens, or of those that the budget allows."""
    layer = HIDDEN_WIDTHS * shape.hidden + MLP_WIDTHS * shape.active
    per_token: float = (1 + kept_layers) * layer * work.itemsize
    per_token += read_share * LOGIT_COPIES * 4 * shape.vocabulary
    return min(tokens * per_token, work.memory_budget or float("inf"))


def _covariance_memory(shape: ModelShape, work: Workload) -> float:
    sums = layers_at_once(shape, work) * _sums_memory(shape, work)
    collecting = sums + _pass_memory(shape, work, min(work.tokens, _COVARIANCE_TOKENS))
    if not work.own_text:
        return collecting
    rows = min(_SAMPLED_ROWS, max(1, work.tokens // _SAMPLED_LENGTH))
    cache = rows * _SAMPLED_LENGTH * 2 * shape.layers * shape.key_value * work.itemsize
    logits = rows * shape.vocabulary * 4 * LOGIT_COPIES
    return collecting + cache + logits + _quick_copy(shape, work)


def _quick_copy(shape: ModelShape, work: Workload) -> float:
    return float(shape.quick_copy_bytes) if work.quick else 0.0


def _targets_memory(shape: ModelShape, work: Workload) -> float:
    """A pass and what its backward pass needs; keys and values of tokens before the subjects."""
    above = shape.layers - work.last - 1
    texts = min(work.edits, MAX_EDITS) * (2 + work.texts.contexts)
    cached = texts * 24 * 2 * above * shape.key_value * work.itemsize
    tokens = min(texts * work.texts.suffix, MAX_QUICK_TOKENS if work.quick else TARGET_TOKENS)
    passing = _pass_memory(shape, work, tokens, read_share=_READ_SHARE, kept_layers=above)
    return cached + passing + _quick_copy(shape, work)


def _fine_tuning_memory(shape: ModelShape, work: Workload) -> float:
    above = shape.layers - work.last
    tokens = min(work.edits * work.texts.tokens, FINE_TUNING_TOKENS)
    passing = _pass_memory(shape, work, tokens, read_share=_READ_SHARE / 4, kept_layers=above)
    return passing + 6 * 4 * shape.hidden * shape.mlp  # change, gradient, Adam's two, the sums


def _keys_memory(shape: ModelShape, work: Workload) -> float:
    tokens = work.edits * (1 + work.texts.contexts) * work.texts.context
    layers = 1 if work.schedule is Schedule.LAYERWISE else work.edited
    keys = work.edits * work.texts.keys * (layers * shape.mlp + shape.hidden) * _FLOAT64
    return _pass_memory(shape, work, min(tokens, KEYS_TOKENS)) + 2 * keys


def _merge_memory(shape: ModelShape, work: Workload) -> float:
    """The priors held, one being made, and the factors of all parties."""
    matrix = _FLOAT64 * shape.mlp * shape.width
    held: float = work.edited
    if work.memory_budget is not None:
        held = min(held, max(0, int(work.memory_budget / 2 / (_KEPT * matrix)) - 1))
    rank = min(work.edits * work.texts.keys, shape.mlp)
    factors = 2 * work.edited * rank * (shape.mlp + shape.hidden) * _FLOAT64
    return (held * _KEPT + _MADE) * matrix + factors

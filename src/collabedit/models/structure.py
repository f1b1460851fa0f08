"""What editing needs to know about a model, inferred from the loaded module.

Nothing here depends on the name of a model family: the decoder layers are the longest list of equal
blocks of the text model, the down-projection is the last projection of a block's MLP back to the
hidden size, or the experts of a mixture (:mod:`collabedit.models.experts`).
:mod:`collabedit.models.trial` tests on the running model that an edit of it has the intended
effect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from collabedit.errors import ModelError
from collabedit.models.experts import count_of

__all__ = ["ModelStructure", "infer_structure"]

#: Path patterns: of parts outside the text model and, inside a layer, of attention, of the MLP, and
#: of other parts that project to the hidden size (token mixers, adapters, per-layer embeddings).
_OTHER_SENSES = re.compile("vision|visual|image|audio|speech")
_ATTENTION = re.compile("attn|attention")
_MLP = re.compile("mlp|ffn|feed_?forward")
_OTHER_PARTS = re.compile(
    "attn|attention|mamba|ssm|mixer|conv|recurrent|adapter|lora|per_layer|altup|laurel"
)


@dataclass(frozen=True)
class ModelStructure:
    """Where a decoder-only language model keeps what the editor needs.

    Attributes:
        layers: path of the list of decoder layers, e.g. ``model.layers``.
        down_projection: path of the MLP down-projection inside a layer, e.g. ``mlp.down_proj``.
        output_norm: path inside a layer of the norm between the down-projection and the residual
            stream, or ``None`` if the projection's output is added as it is.
        scaled: whether the configuration scales what a block adds to the residual stream.
        final_norm: path of the norm after the last layer, or ``None`` if there is none.
        head: path of the output embedding, e.g. ``lm_head``.
        transposed: whether the stored weight is ``[d_in, d_out]`` (GPT-2's Conv1D).
        tied_head: whether the head shares its weight with the input embedding.
        n_layers: number of decoder layers.
        hidden_size: ``d_out``, the width of the residual stream.
        mlp_size: ``d_in``, the width of the down-projection's input, over all experts together.
        experts: number of a layer's experts, ``None`` if it has one MLP for all tokens.
        routed: number of experts that a token is routed to.
    """

    layers: str
    down_projection: str
    output_norm: str | None
    scaled: bool
    final_norm: str | None
    head: str
    transposed: bool
    tied_head: bool
    n_layers: int
    hidden_size: int
    mlp_size: int
    experts: int | None = None
    routed: int | None = None

    @property
    def blocks(self) -> int:
        """Number of parts of a key with separate second moments: one, or one per expert."""
        return self.experts or 1

    @property
    def moment_size(self) -> int:
        """Numbers in the second moments of a layer's keys."""
        return self.mlp_size**2 // self.blocks

    @property
    def active_size(self) -> int:
        """Entries of a key that a token uses."""
        return self.mlp_size if self.experts is None else self._width * (self.routed or 1)

    @property
    def _width(self) -> int:
        return self.mlp_size // self.blocks

    @property
    def single_layer(self) -> bool:
        """Whether only one layer can be edited, as far as the structure tells.

        Several layers can share a residual because all of them add to the same stream. A layer
        whose output passes a norm cannot add what it is asked to, only change the direction of what
        it adds. The running model has the last word (:meth:`LanguageModel.check_layers`).
        """
        return self.output_norm is not None or self.scaled

    def check_layers(self, layers: Sequence[int]) -> None:
        """Check that these layers can be edited together, as far as the structure tells.

        Raises:
            ModelError: when there are several and the model allows only one.
        """
        if self.single_layer and len(layers) > 1:
            what = f"passes a norm ({self.output_norm})" if self.output_norm else "is scaled"
            raise ModelError(
                f"the MLP's output {what} in this model, so only a single layer can be edited; "
                f"give one of {list(layers)}"
            )

    def layer_path(self, layer: int) -> str:
        """Module path of one decoder layer."""
        return f"{self.layers}.{layer}"

    def projection_path(self, layer: int) -> str:
        """Module path of one layer's down-projection."""
        return f"{self.layers}.{layer}.{self.down_projection}"

    def weight_name(self, layer: int) -> str:
        """Parameter name of one layer's down-projection."""
        own_name = "weight" if self.experts is None else "down_proj"
        return f"{self.projection_path(layer)}.{own_name}"

    def matrix(self, stored: Tensor) -> Tensor:
        """A weight ``[d_out, d_in]`` from the form in which the model stores it.

        A view, except for experts, whose parts ``[n, d_out, d_e]`` are copied side by side.
        """
        if self.experts is not None:
            return stored.movedim(0, 1).flatten(1)
        return stored.T if self.transposed else stored

    def stored(self, matrix: Tensor) -> Tensor:
        """The inverse of :meth:`matrix`."""
        if self.experts is not None:
            apart: Tensor = matrix.unflatten(1, (self.experts, -1))
            return apart.movedim(1, 0)
        return matrix.T if self.transposed else matrix


def infer_structure(model: nn.Module) -> ModelStructure:
    """Infer the structure of a causal language model.

    Args:
        model: a ``transformers`` causal LM; weights on the meta device will do.

    Raises:
        ModelError: when the model is an encoder-decoder or a mixture of experts of a form that
            cannot be edited, or when a part cannot be found; the message names the part.
    """
    config: Any = model.config
    name = getattr(config, "model_type", type(model).__name__)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name}: encoder-decoder models cannot be edited; use a decoder-only one")
    lists = _layer_lists(model, name)
    head_path, head = _find_head(model, name)
    path, layers = _longest(lists, head.in_features)
    projection_path, projection, experts = _find_down_projection(layers, head, path, name)
    transposed = isinstance(projection, Conv1D)
    d_out, d_in = _widths(projection)
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    return ModelStructure(
        layers=path,
        down_projection=projection_path,
        output_norm=_find_output_norm(layers[0]),
        scaled=getattr(config, "residual_multiplier", None) not in (None, 1.0),
        final_norm=_find_final_norm(model, path, d_out),
        head=head_path,
        transposed=transposed,
        tied_head=head.weight is embedding.weight,
        n_layers=len(layers),
        hidden_size=d_out,
        mlp_size=d_in,
        experts=experts,
        routed=None if experts is None else _experts_per_token(config),
    )


def _layer_lists(model: nn.Module, name: str) -> list[tuple[str, nn.ModuleList]]:
    """Lists of equal blocks with attention, outside vision and audio parts."""
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) > 0
        and not _OTHER_SENSES.search(path)
        and any(_ATTENTION.search(inner) for inner, _ in module.named_modules())
    ]
    equal = [item for item in lists if len({type(block) for block in item[1]}) == 1]
    if equal:
        return equal
    if lists:
        path, mixed = max(lists, key=lambda item: len(item[1]))
        kinds = ", ".join(sorted({type(block).__name__ for block in mixed}))
        raise ModelError(f"{name}: the layers in {path} are of several kinds ({kinds})")
    raise ModelError(f"{name}: no list of equal decoder layers with attention was found in it")


def _longest(
    lists: Sequence[tuple[str, nn.ModuleList]], hidden_size: int
) -> tuple[str, nn.ModuleList]:
    """The longest list, preferably of blocks that project back to the head's width."""
    of_the_head = [item for item in lists if _projections(item[1][0], hidden_size)]
    return max(of_the_head or lists, key=lambda item: len(item[1]))


def _find_head(model: nn.Module, name: str) -> tuple[str, nn.Linear]:
    head = model.get_output_embeddings()  # type: ignore[operator]
    for path, module in model.named_modules():
        if module is head and isinstance(module, nn.Linear):
            return path, module
    raise ModelError(f"{name}: no linear output embedding (language-model head) was found in it")


def _find_down_projection(
    layers: nn.ModuleList, head: nn.Linear, path: str, name: str
) -> tuple[str, nn.Module, int | None]:
    """Path and module of the down-projection in the first layer, and its number of experts."""
    hidden_size = head.in_features
    if any(_is_expert(inner, module) for inner, module in layers.named_modules()):
        return _find_experts(layers, hidden_size, path, name)
    found = _projections(layers[0], hidden_size)
    if not found:
        raise ModelError(
            f"{name}: no projection from an MLP back to the hidden size {hidden_size} was found "
            f"in {path}.0; its modules are: {', '.join(n for n, _ in layers[0].named_modules())}"
        )
    inner, projection = found[-1]
    for index, layer in enumerate(layers):
        other = dict(layer.named_modules()).get(inner)
        if other is None or other.weight.shape != projection.weight.shape:
            raise ModelError(f"{name}: {path}.{index}.{inner} differs from that of layer 0")
    return inner, projection, None


def _find_experts(
    layers: nn.ModuleList, hidden_size: int, path: str, name: str
) -> tuple[str, nn.Module, int]:
    """The experts, which must have the same form in all layers."""
    found = [_experts_in(layer, hidden_size) for layer in layers]
    first = next((experts for experts in found if experts is not None), None)
    if first is None:
        inner = next(i for i, module in layers.named_modules() if _is_expert(i, module))
        raise ModelError(
            f"{name}: mixture-of-experts layers ({path}.{inner}) of this form cannot be edited, "
            "only experts in down_proj and gate_up_proj without biases (transformers 5); use a "
            "model with dense MLPs"
        )
    for index, experts in enumerate(found):
        if experts is None or experts[0] != first[0] or _widths(experts[1]) != _widths(first[1]):
            raise ModelError(
                f"{name}: {path}.{index} lacks the experts of other layers; models that mix dense "
                "and sparse layers cannot be edited, use one whose layers are alike"
            )
    return first


def _experts_in(layer: nn.Module, hidden_size: int) -> tuple[str, nn.Module, int] | None:
    """Path and module of a layer's experts, and their number."""
    for inner, module in layer.named_modules():
        count = count_of(module, hidden_size)
        if count is not None:
            return inner, module, count
    return None


def _experts_per_token(config: Any) -> int | None:
    text = config.get_text_config()
    names = ("num_experts_per_tok", "moe_topk", "top_k_experts", "moe_k")
    return next((value for name in names if (value := getattr(text, name, None))), None)


def _widths(projection: nn.Module) -> tuple[int, int]:
    """``(d_out, d_in)``."""
    if isinstance(projection, nn.Linear):
        return projection.out_features, projection.in_features
    if isinstance(projection, Conv1D):
        return projection.nf, projection.nx
    count, d_out, width = projection.down_proj.shape  # type: ignore[misc]
    return int(d_out), int(count * width)


def _projections(layer: nn.Module, hidden_size: int) -> list[tuple[str, nn.Linear | Conv1D]]:
    """Projections to the hidden size: of the MLP by name, else outside other known parts."""
    found = [
        (inner, module)
        for inner, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and _output_size(module) == hidden_size
        and not _OTHER_PARTS.search(inner)
    ]
    return [item for item in found if _MLP.search(item[0])] or found


def _output_size(projection: nn.Linear | Conv1D) -> int:
    return projection.nf if isinstance(projection, Conv1D) else projection.out_features


def _is_expert(path: str, module: nn.Module) -> bool:
    parts = path.split(".")
    return "experts" in parts or "router" in parts or type(module).__name__.endswith("MoE")


def _find_output_norm(layer: nn.Module) -> str | None:
    """The norm of the MLP's output, as in Gemma and OLMo 2, by the prefix of its name."""
    for child_name, child in layer.named_children():
        after_mlp = child_name.startswith(("post_feedforward", "post_mlp"))
        if after_mlp and "Norm" in type(child).__name__:
            return child_name
    return None


def _find_final_norm(model: nn.Module, layers_path: str, hidden_size: int) -> str | None:
    parent_path = layers_path.rpartition(".")[0]
    parent = model.get_submodule(parent_path)
    found = None
    for child_name, child in parent.named_children():
        weight = getattr(child, "weight", None)
        if "Norm" in type(child).__name__ and (weight is None or weight.shape == (hidden_size,)):
            found = f"{parent_path}.{child_name}" if parent_path else child_name
    return found

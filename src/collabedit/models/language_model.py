"""A causal language model as an editor sees it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from collabedit.errors import ModelError
from collabedit.files import sha256_of_json
from collabedit.models.attention import use_small_attention
from collabedit.models.experts import count_of, use_plain_products
from collabedit.models.norms import use_quick_norms
from collabedit.models.placement import device_of, is_dispatched, keep_in_memory, stored_weight
from collabedit.models.precision import has_fast_bfloat16
from collabedit.models.structure import ModelStructure, infer_structure
from collabedit.models.trial import Tail, check_causal, reaches_later_tokens, try_layers

__all__ = ["LanguageModel", "WeightChange", "weight_sha256"]


#: A tensor's address, how often it was written to, and a few of its values.
_Stamp = tuple[int, int, tuple[float, ...]]
_SAMPLED = 16


class WeightChange(Protocol):
    """A change of one weight; :class:`collabedit.merging.LowRankUpdate` is one."""

    @property
    def sha256(self) -> str:
        """Digest of everything that defines the change."""

    def dense(self) -> Tensor:
        """The change as a matrix, ``[d_out, d_in]``."""


@dataclass(eq=False)
class LanguageModel:
    """A ``transformers`` causal LM with its tokenizer and inferred structure.

    Weights are always seen as ``[d_out, d_in]``, whatever orientation the model stores. The experts
    of a layer form one such weight, side by side (:mod:`collabedit.models.experts`).

    Attributes:
        hf: the ``transformers`` model, in evaluation mode, with its weights' gradients turned off.
        tokenizer: its fast tokenizer.
        name: what the user called it.
        memory_budget: bytes that one stage may take beyond the weights; ``None`` for whatever is
            fastest.
        structure: where its parts are.
    """

    hf: Any
    tokenizer: Any
    name: str
    memory_budget: int | None = None
    structure: ModelStructure = field(init=False)
    _current_edit: str | None = field(init=False, default=None)
    _digests: dict[str, tuple[_Stamp, str]] = field(init=False, default_factory=dict)
    _tails: dict[int, Tail] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.structure = infer_structure(self.hf)
        self.hf.eval().requires_grad_(False)
        plain = self.dtype == torch.float64 or self.device.type == "cpu"
        if self.structure.experts is not None and plain:
            use_plain_products(self.hf)

    @property
    def device(self) -> torch.device:
        """The device on which the input embedding computes, and so where inputs go."""
        return device_of(self.hf.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        """Type of the edited weights."""
        dtype: torch.dtype = self.hf.get_parameter(self.structure.weight_name(0)).dtype
        return dtype

    @property
    def head(self) -> nn.Module:
        """The output embedding."""
        return self.module(self.structure.head)

    @property
    def can_be_quick(self) -> bool:
        """Whether a copy is much faster (see :meth:`quick_copy`).

        A sharded or offloaded model gets none, since it barely fits as it is.
        """
        if is_dispatched(self.hf):
            return False
        if self.dtype == torch.bfloat16:
            return self.device.type == "cpu"
        return self.dtype == torch.float32 and has_fast_bfloat16(self.device)

    def quick_copy(self) -> LanguageModel:
        """A copy to differentiate and sample with if that is much faster, else the model itself.

        The copy of a float32 model multiplies by the layers' matrices in bfloat16. The states
        between them, the norms and the head keep the model's own type, because rounding the states
        at every layer causes most of the error of a model that runs in bfloat16 throughout.
        Parameters that are not rounded are shared with the model. On a CPU attention uses plain
        products, even for a model in bfloat16, because their gradient is faster there.
        """
        if not self.can_be_quick:
            return self
        matrices = {id(p) for p in self._matrices()}
        parameters: dict[int, Any] = {  # deepcopy uses these instead of making copies
            id(p): nn.Parameter(p.data.bfloat16(), requires_grad=False) if id(p) in matrices else p
            for p in self.hf.parameters()
        }
        hf = copy.deepcopy(self.hf, parameters)
        if self.device.type == "cpu":
            use_small_attention(hf)
            if self.dtype == torch.float32:
                use_quick_norms(hf)
        quick = LanguageModel(hf, self.tokenizer, self.name, self.memory_budget)
        quick._tails = self._tails
        if self.dtype == torch.float32:
            for layer in range(self.structure.n_layers):
                module = quick.layer(layer)
                module.forward = torch.autocast(self.device.type, torch.bfloat16)(module.forward)
        return quick

    @property
    def quick_copy_bytes(self) -> int:
        """Bytes that a quick copy takes on top of the model."""
        return sum(2 * p.numel() for p in self._matrices() if p.dtype != torch.bfloat16)

    def _matrices(self) -> Iterator[nn.Parameter]:
        """The weights and biases of the layers' linear maps."""
        from transformers.pytorch_utils import Conv1D

        width = self.structure.hidden_size
        for layer in range(self.structure.n_layers):
            for linear in self.layer(layer).modules():
                if isinstance(linear, nn.Linear | Conv1D) or count_of(linear, width) is not None:
                    yield from linear.parameters(recurse=False)

    def module(self, path: str) -> nn.Module:
        """The module at a path."""
        module: nn.Module = self.hf.get_submodule(path)
        return module

    def layer(self, layer: int) -> nn.Module:
        """One decoder layer."""
        return self.module(self.structure.layer_path(layer))

    def projection(self, layer: int) -> nn.Module:
        """The down-projection of one layer, or the experts in its place."""
        return self.module(self.structure.projection_path(layer))

    def tail(self, layer: int) -> Tail:
        """What comes between a layer's down-projection and its output, as measured on this model.

        Raises:
            ModelError: when an edit of the layer's weight would not have the intended effect.
        """
        if layer not in self._tails:
            self._tails.update(try_layers(self, [layer]))
        return self._tails[layer]

    def site(self, layer: int) -> nn.Module:
        """The module whose output moves by exactly what an edit of the layer's weight adds.

        That is the layer if it adds the down-projection's output to its own, or the projection
        itself if a norm or a factor comes in between.
        """
        return self.layer(layer) if self.tail(layer).direct else self.projection(layer)

    def effect(self, layer: int, output: Tensor, change: Tensor) -> Tensor:
        """How a change ``[..., d_out]`` in the output of :meth:`site` moves the layer's output.

        Raises:
            ModelError: when that is not known, because more than a norm and a factor come in
                between.
        """
        tail = self.tail(layer)
        if tail.direct:
            return change
        if tail.scale is None:
            raise ModelError(
                f"{self.name}: how {self.structure.projection_path(layer)} moves the layer's "
                "output is not known in closed form"
            )
        moved = change
        if self.structure.output_norm is not None:
            norm: nn.Module = self.layer(layer).get_submodule(self.structure.output_norm)
            output = output.to(torch.promote_types(output.dtype, change.dtype))
            moved = norm(output + change) - norm(output)
        return moved if tail.scale == 1.0 else tail.scale * moved

    def check_layers(self, layers: Sequence[int]) -> None:
        """Check, by trial on this model, that these layers can be edited together.

        Raises:
            ModelError: when a layer does not exist or cannot be edited, when there are several
                although the model's layers do not share one residual, when later tokens change
                earlier ones, or when no later token would notice the edit.
        """
        self.weight_names(layers)
        self.structure.check_layers(layers)
        if untried := [layer for layer in layers if layer not in self._tails]:
            self._tails.update(try_layers(self, untried))
        indirect = [layer for layer in layers if not self.tail(layer).direct]
        if indirect and len(layers) > 1:
            raise ModelError(
                f"{self.name}: the output of {self.structure.projection_path(indirect[0])} is not "
                "added to the layer's output as it is, so only a single layer can be edited; "
                f"give one of {list(layers)}"
            )
        last = max(layers, default=0)
        check_causal(self, last)
        if last < self.structure.n_layers - 1 and not reaches_later_tokens(self, last):
            raise ModelError(
                f"{self.name}: the output of layer {last} reaches no later token, because the "
                "layers above reuse keys and values of lower ones; edit a lower layer"
            )

    def weight_names(self, layers: Sequence[int]) -> list[str]:
        """Names of the edited weights of some layers.

        Raises:
            ModelError: when a layer does not exist.
        """
        last = self.structure.n_layers - 1
        for layer in layers:
            if not 0 <= layer <= last:
                raise ModelError(f"{self.name} has layers 0 to {last}; there is no layer {layer}")
        return [self.structure.weight_name(layer) for layer in layers]

    def stored(self, name: str) -> Tensor:
        """An edited weight as the model stores it; an offloaded one then stays in memory."""
        module, own_name = self._locate(name)
        keep_in_memory(module)
        return module.get_parameter(own_name).detach()

    def weight(self, name: str) -> Tensor:
        """An edited weight, ``[d_out, d_in]``; a view, or a copy in the case of experts."""
        return self.structure.matrix(self.stored(name))

    def fingerprint(self, names: Sequence[str]) -> dict[str, str]:
        """SHA-256 of each named weight's type, shape and bytes, as they are now.

        A digest is reused while the weight is the same tensor and has not been written to; see
        :func:`_stamp`.
        """
        return {name: self._digest(name) for name in names}

    def _digest(self, name: str) -> str:
        module, own_name = self._locate(name)
        stamp = _stamp(module.get_parameter(own_name))
        known = self._digests.get(name)
        if known is None or known[0] != stamp:
            known = self._digests[name] = stamp, weight_sha256(stored_weight(module, own_name))
        return known[1]

    def state_fingerprint(self) -> str:
        """One SHA-256 for all weights as they are now."""
        return sha256_of_json(self.fingerprint([name for name, _ in self.hf.named_parameters()]))

    def apply_(self, changes: Mapping[str, WeightChange]) -> None:
        """Add changes to the weights for good.

        Sums are formed in float64, the changes' type, and rounded to the weights' type at the end.

        Raises:
            ModelError: when a change names a weight that the model lacks, or has another shape.
        """
        for name, change in changes.items():
            weight, dense = self.weight(name), change.dense()
            if dense.shape != weight.shape:
                raise ModelError(
                    f"{self.name}: {name} is {tuple(weight.shape)}, but the update is "
                    f"{tuple(dense.shape)}; it was made for another model"
                )
            self.stored(name).copy_(self.structure.stored(dense + weight.to(dense.device)))

    @contextmanager
    def edited(self, changes: Mapping[str, WeightChange]) -> Iterator[None]:
        """Apply changes within the block; restore the exact bytes of the weights after it.

        Entering it again with equal changes inside the block does nothing, so several parties in
        one process can each ask for the same state.

        Raises:
            ModelError: when the model carries other changes, or these do not fit it.
        """
        edit = sha256_of_json({name: change.sha256 for name, change in changes.items()})
        if not changes or edit == self._current_edit:
            yield
            return
        if self._current_edit is not None:
            raise ModelError("the model already carries another edit; leave that block first")
        self._current_edit = edit
        try:
            with self.changed(changes):
                yield
        finally:
            self._current_edit = None

    @contextmanager
    def starting_from(self, changes: Mapping[str, WeightChange]) -> Iterator[None]:
        """Within the block, the model with these changes is the unedited one.

        The next round starts from what earlier rounds wrote. The exact bytes of the weights are
        restored after the block.
        """
        if self._current_edit is not None:
            raise ModelError("the model carries an edit; leave that block first")
        with self.changed(changes):
            yield

    @contextmanager
    def changed(self, changes: Mapping[str, WeightChange]) -> Iterator[None]:
        """Add changes within the block, on top of any others; restore the exact bytes after it."""
        saved = {name: self.stored(name).clone() for name in changes}
        try:
            self.apply_(changes)
            yield
        finally:
            for name, value in saved.items():
                self.stored(name).copy_(value)

    def _locate(self, name: str) -> tuple[nn.Module, str]:
        """The module that owns a weight, and the weight's name in it."""
        path, _, own_name = name.rpartition(".")
        try:
            module = self.module(path)
            module.get_parameter(own_name)
        except AttributeError:
            raise ModelError(f"{self.name} has no weight {name}; is it another model?") from None
        return module, own_name


def _stamp(tensor: Tensor) -> _Stamp:
    """A mark that changes when a tensor is replaced or written to, far cheaper than a digest.

    Torch counts the writes to a tensor, but not those through its ``data``; a few of its values
    reveal those if they change most of it.
    """
    tensor = tensor.detach()
    if tensor.is_meta:  # offloaded, so it cannot be written to
        return 0, tensor._version, ()
    flat = tensor.reshape(-1) if tensor.is_contiguous() else tensor.flatten()
    sample = flat[:: max(1, flat.numel() // _SAMPLED)].tolist()
    return tensor.data_ptr(), tensor._version, tuple(sample)


def weight_sha256(tensor: Tensor) -> str:
    """SHA-256 of a weight's type, shape and bytes, as messages name the weights of a model."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()

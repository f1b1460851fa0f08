"""Mixtures of experts: the one key that the down-projections of a layer's experts share.

A token's experts output ``sum_e g_e W_e k_e``, with the gates ``g_e`` of those that it is routed
to. That is one matrix ``W = [W_1 ... W_n]`` times one key: the keys ``g_e k_e`` stacked, with zeros
for experts that the token is not routed to. Everything else sees this one weight ``[d_out, n
d_e]``; only this file knows how ``transformers`` (5 and later) stores and calls it.
:mod:`collabedit.models.trial` checks on the running model that the key is the right one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from collabedit.errors import ModelError
from collabedit.models.placement import stored_weight
from collabedit.models.tokens import LEAST_ROWS

__all__ = [
    "Inputs",
    "Routed",
    "count_of",
    "inputs_of",
    "keys_at",
    "one_by_one",
    "tokens_at",
    "use_plain_products",
]

#: The name under which ``transformers`` knows :func:`one_by_one`.
_NAME = "collabedit_one_by_one"
_DOWN, _UP = "down_proj", "gate_up_proj"


@dataclass(frozen=True, eq=False)
class Routed:
    """The input of a layer's experts: the tokens' states, and where each token is routed.

    Attributes:
        experts: the module that holds the experts' weights.
        hidden: ``[tokens, d_out]``.
        index: ``[tokens, k]``, the experts of each token; a number beyond the last expert means
            none.
        gates: ``[tokens, k]``, the factor on each expert's output.
    """

    experts: Any
    hidden: Tensor
    index: Tensor
    gates: Tensor

    @classmethod
    def of(cls, experts: nn.Module, args: tuple[Any, ...]) -> Routed:
        """The input of one call of the module.

        Raises:
            ModelError: when the arguments are not states, experts and gates.
        """
        tensors = [arg.detach() for arg in args if isinstance(arg, Tensor)]
        if len(tensors) != 3 or tensors[1].shape != tensors[2].shape:
            raise ModelError(
                f"{type(experts).__name__} is not called with states, experts and gates; such "
                "mixtures of experts cannot be edited"
            )
        hidden, index, gates = (tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors)
        return cls(experts, hidden, index, gates)

    @property
    def device(self) -> torch.device:
        """The device of the states."""
        return self.hidden.device

    def __getitem__(self, tokens: Tensor) -> Routed:
        """Some of the tokens, by a mask or by their numbers."""
        return Routed(self.experts, self.hidden[tokens], self.index[tokens], self.gates[tokens])

    def by_expert(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each expert with tokens, these tokens, their gated keys ``g_e k_e [n, d_e]``."""
        weights = stored_weight(self.experts, _UP)
        for expert in range(len(weights)):
            tokens, slots = torch.where(self.index == expert)
            if len(tokens):
                keys = _inner(self.experts, weights[expert], self.hidden[tokens])[: len(tokens)]
                yield expert, tokens, keys * self.gates[tokens, slots, None]

    def keys(self) -> Tensor:
        """``[tokens, n d_e]``: the gated keys of all experts side by side."""
        count, _, width = getattr(self.experts, _DOWN).shape
        dtype = torch.promote_types(self.hidden.dtype, self.gates.dtype)
        keys = self.hidden.new_zeros(len(self.hidden), count, width, dtype=dtype)
        for expert, tokens, gated in self.by_expert():
            keys[tokens, expert] = gated.to(dtype)
        return keys.flatten(1)


#: The input of a down-projection in a forward pass, ``[..., d_in]``, or that of a mixture.
Inputs: TypeAlias = "Tensor | Routed"


def inputs_of(module: nn.Module, args: tuple[Any, ...]) -> Inputs:
    """The input of a call to a down-projection, or to the experts in its place."""
    if isinstance(module, nn.Linear) or not hasattr(module, _DOWN):
        inputs: Tensor = args[0]
        return inputs.detach()
    return Routed.of(module, args)


def tokens_at(inputs: Inputs, chosen: Tensor | None = None) -> Inputs:
    """The inputs at some of a pass's tokens, ``[n, d_in]`` or routed.

    Args:
        inputs: of a pass over ``[rows, columns]`` tokens.
        chosen: a mask or numbers of tokens, counted row by row; all by default.
    """
    flat = inputs if isinstance(inputs, Routed) else inputs.reshape(-1, inputs.shape[-1])
    return flat if chosen is None else flat[chosen.to(flat.device)]


def keys_at(inputs: Inputs, chosen: Tensor | None = None) -> Tensor:
    """The keys ``[n, d_in]`` of some of a pass's tokens; see :func:`tokens_at`."""
    tokens = tokens_at(inputs, chosen)
    return tokens.keys() if isinstance(tokens, Routed) else tokens


def use_plain_products(hf: Any) -> None:
    """Make a ``transformers`` model run its experts by :func:`one_by_one`.

    Its kernels for all experts at once support neither float64 nor, on a CPU, widths that are not a
    multiple of 16 bytes. They are hardly faster there, and the last bits of a token's result depend
    on the tokens beside it.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(_NAME, one_by_one)
    hf.set_experts_implementation(_NAME)


def one_by_one(experts: Any, hidden: Tensor, index: Tensor, gates: Tensor) -> Tensor:
    """The experts' output ``[tokens, d_out]``, one expert at a time; arguments as in Routed."""
    result = torch.zeros_like(hidden)
    for expert in range(len(experts.down_proj)):
        tokens, slots = torch.where(index == expert)
        if len(tokens):
            inner = _inner(experts, experts.gate_up_proj[expert], hidden[tokens])
            output = linear(inner, experts.down_proj[expert])[: len(tokens)]
            output = output * gates[tokens, slots, None]
            result = result.index_add(0, tokens, output.to(result.dtype))
    return result


def _inner(experts: Any, weight: Tensor, states: Tensor) -> Tensor:
    """An expert's keys, without gates, for ``n`` states, padded with copies when these are few.

    A product of few rows is summed in a different order, and how many tokens an expert gets depends
    on the whole batch.
    """
    copies = max(0, LEAST_ROWS - len(states))
    filled = torch.cat([states, states[-1:].expand(copies, -1)]) if copies else states
    keys: Tensor = experts._apply_gate(linear(filled, weight))
    return keys


def count_of(experts: nn.Module, hidden_size: int) -> int | None:
    """How many experts a module holds, if it has the form that can be edited.

    That is: all down-projections in one parameter ``down_proj [n, d_out, d_e]`` beside all of
    ``gate_up_proj [n, 2 d_e, d_out]``, and no other parameters, such as biases.

    Args:
        experts: the module.
        hidden_size: ``d_out``.
    """
    held = dict(experts.named_parameters())
    if set(held) != {_DOWN, _UP} or getattr(experts, "is_transposed", False):
        return None
    down, up = held[_DOWN], held[_UP]
    if down.ndim != 3 or up.ndim != 3 or not hasattr(experts, "_apply_gate"):
        return None
    count, d_out, width = down.shape
    fits = d_out == hidden_size and up.shape == (count, 2 * width, hidden_size)
    return count if fits else None

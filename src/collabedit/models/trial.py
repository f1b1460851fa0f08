"""Tests on the running model that an edit of a layer's weight does what the algebra assumes.

The structure alone does not tell: some models scale what a block adds, normalise it before or
after, add more to it, round their weights in every pass, or run a layer twice. So the weight gets a
rank-one change that should move the down-projection's output at one token by a known vector, and
the actual move is measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from collabedit.errors import ModelError
from collabedit.models.experts import inputs_of, keys_at
from collabedit.models.failures import reason_of
from collabedit.models.hooks import added_states, hidden_states, seen_outputs, stops_after
from collabedit.models.structure import ModelStructure

__all__ = ["Tail", "check_causal", "reaches_later_tokens", "try_layers"]

#: Ordinary tokens, beyond the special ones that vocabularies begin with.
_TOKENS = (7, 11, 5, 9)
#: How far a value may be off, relative to its size, where products keep 24 bits (10 in
#: TF32), or 8.
_TOLERANCE, _ROUNDED_TOLERANCE = 5e-3, 0.05
#: Rounding of a layer's output, in units of its type.
_ROUNDINGS = 4
#: How close to one a factor must be to count as one.
_UNIT = 1e-3
_PARTS = ("key", "given", "output")


@dataclass(frozen=True)
class Tail:
    """What comes between a down-projection and its layer's output.

    Attributes:
        direct: whether the output moves by exactly as much as the projection's output.
        scale: otherwise, the ratio of the output's move to that of the projection's output (after
            the output norm, if there is one); ``None`` if they are not proportional.
    """

    direct: bool
    scale: float | None = None


class _Model(Protocol):
    """The part of :class:`collabedit.models.LanguageModel` that a trial needs."""

    hf: Any
    name: str
    structure: ModelStructure

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def layer(self, layer: int) -> nn.Module: ...

    def projection(self, layer: int) -> nn.Module: ...

    def weight(self, name: str) -> Tensor: ...

    def changed(self, changes: Mapping[str, Any]) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class _RankOne:
    """A change that adds ``move [d_out]`` to a weight's output for ``key [d_in]``."""

    key: Tensor
    move: Tensor

    @property
    def sha256(self) -> str:
        return ""

    def dense(self) -> Tensor:
        return torch.outer(self.move, self.key / self.key.square().sum())


@dataclass(frozen=True)
class _Look:
    """What a layer computed at some tokens, in float64 on the CPU.

    Attributes:
        key: ``[tokens, d_in]``, the projection's input.
        given: ``[tokens, d_out]``, the projection's output.
        output: ``[tokens, d_out]``, the layer's output; several streams are concatenated.
    """

    key: Tensor
    given: Tensor
    output: Tensor


@torch.no_grad()
def try_layers(model: _Model, layers: Sequence[int]) -> dict[int, Tail]:
    """Edit each layer's weight for a moment and measure what moves.

    Raises:
        ModelError: when a weight does not act as a matrix that is applied once to each token, or
            when its layer's output does not depend on it.
    """
    before = _look(model, layers, _TOKENS, whole=True)
    return {layer: _tried(model, layer, before[layer]) for layer in layers}


def _tried(model: _Model, layer: int, before: _Look) -> Tail:
    path, name = model.structure.projection_path(layer), model.structure.weight_name(layer)
    if model.structure.experts is not None:
        _check_keys(model, layer, before)
    key, given, output = before.key[-1], before.given[-1], before.output[-1]
    streams = len(output) / len(given)
    move = torch.randn(given.shape, generator=torch.Generator().manual_seed(0)).double()
    move *= max(output.norm() / streams**0.5, given.norm()) / move.norm()
    with model.changed({name: _RankOne(key, move)}):
        after = _look(model, [layer], _TOKENS)[layer]
    noise, tolerance = _noise(model), _tolerance(model)
    error = (after.given[-1] - given - move).norm()
    if not error <= tolerance * move.norm() + noise * after.given[-1].norm():
        raise ModelError(
            f"{model.name}: {path} does not act as its weight says (a change of the weight moves "
            "its output by something else); such layers cannot be edited"
        )
    if not (after.output[-1] - output).norm() > noise * output.norm():
        raise ModelError(
            f"{model.name}: the output of {model.structure.layer_path(layer)} does not depend on "
            f"that of {path}; such layers cannot be edited"
        )
    return _tail(model, layer, before, after)


def _check_keys(model: _Model, layer: int, before: _Look) -> None:
    """Check that the keys of experts, which are computed here, are those that the model uses.

    A change along a key says little about that: what a wrong key lacks would not be missed.
    """
    weight = model.weight(model.structure.weight_name(layer)).cpu().double()
    error = (before.key @ weight.T - before.given).norm()
    if not error <= (_tolerance(model) + _noise(model)) * before.given.norm():
        raise ModelError(
            f"{model.name}: the output of {model.structure.projection_path(layer)} is not the sum "
            "of its experts' outputs, each times its gate; such layers cannot be edited"
        )


@torch.no_grad()
def check_causal(model: _Model, layer: int) -> None:
    """Check that a layer's output at a token does not depend on later tokens.

    Raises:
        ModelError: when it does, as in an encoder.
    """
    longer, shorter = (_look(model, [layer], _TOKENS[:n])[layer].output[1] for n in (3, 2))
    if not (longer - shorter).norm() <= (_tolerance(model) + _noise(model)) * shorter.norm():
        raise ModelError(
            f"{model.name}: later tokens change the output of {model.structure.layer_path(layer)} "
            "at earlier ones, so it is not a left-to-right language model and cannot be edited"
        )


@torch.no_grad()
def reaches_later_tokens(model: _Model, layer: int) -> bool:
    """Whether a layer's output at one token can change the prediction after a later one.

    It cannot in the last layer, nor where all layers above reuse keys and values of lower ones.
    """
    projection = model.projection(layer)
    with seen_outputs({layer: projection}, lambda output: output.detach().clone()) as given:
        before = _run(model, _TOKENS).logits[0, -1]
    size = given[layer].float().norm(dim=-1).mean()
    change = torch.randn(1, given[layer].shape[-1], generator=torch.Generator().manual_seed(0))
    change = size * change.to(size.device) / change.norm()
    first = torch.tensor([0])
    with added_states(projection, (1, len(_TOKENS)), first, torch.tensor([1]), change):
        after = _run(model, _TOKENS).logits[0, -1]
    return not torch.equal(before, after)


def _tail(model: _Model, layer: int, before: _Look, after: _Look) -> Tail:
    """How the last token's output followed, in the simplest form that fits."""
    moved = after.output[-1] - before.output[-1]
    expected = after.given[-1] - before.given[-1]
    if moved.shape != expected.shape:  # several streams
        return Tail(direct=False)
    normed = model.structure.output_norm is not None
    if normed:
        expected = _normed(model, layer, after.given[-1]) - _normed(model, layer, before.given[-1])
    scale = float(moved @ expected / expected.square().sum())
    rounding = _noise(model) * before.output[-1].norm()
    if not (moved - scale * expected).norm() <= _tolerance(model) * moved.norm() + rounding:
        return Tail(direct=False)
    if abs(scale - 1) <= max(_UNIT, _noise(model)):
        return Tail(direct=not normed, scale=1.0)
    return Tail(direct=False, scale=scale)


def _normed(model: _Model, layer: int, given: Tensor) -> Tensor:
    """The projection's output after the layer's output norm."""
    norm = model.layer(layer).get_submodule(str(model.structure.output_norm))
    inputs = given.to(next(norm.parameters(), torch.empty(0, device=model.device)).device)
    result: Tensor = norm(inputs.to(model.dtype))
    return result.cpu().double()


def _tolerance(model: _Model) -> float:
    exact = model.dtype in (torch.float32, torch.float64)
    return _TOLERANCE if exact else _ROUNDED_TOLERANCE


def _noise(model: _Model) -> float:
    """How far rounding may move a value, relative to its size."""
    return _ROUNDINGS * torch.finfo(model.dtype).eps


def _look(
    model: _Model, layers: Sequence[int], tokens: Sequence[int], *, whole: bool = False
) -> dict[int, _Look]:
    """Run a few tokens and record what layers and their projections compute.

    A ``whole`` pass shows whether a layer runs more than once.
    """
    seen: dict[tuple[int, str], list[Tensor]] = defaultdict(list)

    def saw_projection(layer: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        inputs = inputs_of(module, args)
        seen[layer, "key"].append(inputs if isinstance(inputs, Tensor) else keys_at(inputs))
        seen[layer, "given"].append(output.detach().clone())  # some add to it in place

    def saw_layer(layer: int, _module: nn.Module, _args: Any, output: Any) -> None:
        seen[layer, "output"].append(hidden_states(output).detach().clone())

    with ExitStack() as stack:
        for layer in layers:
            hook = model.projection(layer).register_forward_hook(partial(saw_projection, layer))
            stack.enter_context(hook)
            stack.enter_context(model.layer(layer).register_forward_hook(partial(saw_layer, layer)))
        if whole:
            _check_numbers(model, _run(model, tokens).logits)
        else:
            _run(model, tokens, model.layer(max(layers)))
    return {
        layer: _Look(
            **{part: _once(model, layer, seen[layer, part], len(tokens)) for part in _PARTS}
        )
        for layer in layers
    }


def _check_numbers(model: _Model, logits: Tensor) -> None:
    """Check that the model's logits are numbers at all."""
    if logits.isnan().any():
        dtype = str(model.dtype).removeprefix("torch.")
        remedy = (
            "" if model.dtype == torch.float32 else f", or try --dtype float32 instead of {dtype}"
        )
        raise ModelError(
            f"{model.name}: its logits for a few tokens are not numbers (NaN), so its weights "
            f"are damaged; download it again{remedy}"
        )


def _once(model: _Model, layer: int, states: Sequence[Tensor], tokens: int) -> Tensor:
    """The recorded states ``[tokens, ...]``, of which there must be exactly one per token."""
    if len(states) != 1:
        raise ModelError(
            f"{model.name}: {model.structure.projection_path(layer)} runs {len(states)} times in "
            "one pass, and an edit needs one; such layers cannot be edited"
        )
    if states[0].shape[-2] != tokens:
        raise ModelError(
            f"{model.name}: {model.structure.layer_path(layer)} does not see one state for each "
            "token; such models cannot be edited"
        )
    return states[0].movedim(-2, 0).reshape(tokens, -1).cpu().double()


def _run(model: _Model, tokens: Sequence[int], last: nn.Module | None = None) -> Any:
    """Run a few tokens, up to a module or to the end."""
    embedded = model.hf.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([tokens], device=model.device) % embedded
    try:
        with nullcontext() if last is None else stops_after(last):
            return model.hf(input_ids=ids, use_cache=False)
    except Exception as error:  # of any kind, from any architecture
        raise ModelError(
            f"{model.name}: the model does not run on a few tokens: {reason_of(error)}"
        ) from error

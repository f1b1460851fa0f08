"""Everything that collabedit does to a running model, as context managers that undo themselves.

``transformers`` has changed what a decoder layer returns (formerly a tuple, now a tensor); only
this file knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from collabedit.models.experts import Inputs, inputs_of

__all__ = [
    "added",
    "added_states",
    "captured_inputs",
    "gathered",
    "replaced_layers",
    "replaced_states",
    "seen_outputs",
    "stops_after",
    "stops_before",
]


class _StopForward(Exception):  # noqa: N818  (not an error)
    """Unwinds a forward pass when the rest of it is not needed."""


def hidden_states(output: Any) -> Tensor:
    """The hidden states in what a decoder layer returned."""
    hidden: Tensor = output[0] if isinstance(output, tuple | list) else output
    return hidden


@contextmanager
def captured_inputs(modules: Mapping[Any, nn.Module]) -> Iterator[dict[Any, Inputs]]:
    """Collect each projection's input, by the mapping's keys, during the block's forward passes."""
    store: dict[Any, Inputs] = {}

    def keep(key: Any, module: nn.Module, args: tuple[Any, ...]) -> None:
        store[key] = inputs_of(module, args)

    with ExitStack() as stack:
        for key, module in modules.items():
            stack.enter_context(module.register_forward_pre_hook(partial(keep, key)))
        yield store


@contextmanager
def seen_outputs(
    modules: Mapping[Any, nn.Module], read: Callable[[Any], Any] = lambda output: output
) -> Iterator[dict[Any, Any]]:
    """Collect what each module returned, by the mapping's keys.

    Args:
        modules: the modules.
        read: extracts what is needed from an output as soon as it is there, since Falcon adds to
            its MLP's output in place. By default, the output itself.
    """
    store: dict[Any, Any] = {}

    def keep(key: Any, _module: nn.Module, _args: Any, output: Any) -> None:
        store[key] = read(output)

    with ExitStack() as stack:
        for key, module in modules.items():
            stack.enter_context(module.register_forward_hook(partial(keep, key)))
        yield store


def stops_after(module: nn.Module) -> AbstractContextManager[None]:
    """End the one forward pass of the block as soon as ``module`` has run.

    Hooks registered earlier on the same module run first. Nothing after the forward pass in the
    block is reached, so make it the block's last statement.
    """
    return _stopping(module.register_forward_hook)


def stops_before(module: nn.Module) -> AbstractContextManager[None]:
    """Like :func:`stops_after`, but as soon as the input of ``module`` is known."""
    return _stopping(module.register_forward_pre_hook)


@contextmanager
def _stopping(register: Callable[..., Any]) -> Iterator[None]:
    def hook(*_: Any) -> None:
        raise _StopForward

    with suppress(_StopForward), register(hook):
        yield


@contextmanager
def replaced_layers(
    skipped: list[nn.Module], last: nn.Module, output_like: Any, hidden: Tensor
) -> Iterator[None]:
    """Make ``last`` return ``hidden`` without computing, and the ``skipped`` layers nothing.

    Args:
        skipped: layers below ``last``, which pass their input through.
        last: the layer whose output is given.
        output_like: an output of such a layer, whose form is copied.
        hidden: ``[batch, positions, hidden_size]``.
    """

    def form(value: Tensor) -> Any:
        return (value, *output_like[1:]) if isinstance(output_like, tuple) else value

    def skip(*args: Any, **kwargs: Any) -> Any:
        return form(args[0] if args else kwargs["hidden_states"])

    def inject(*_args: Any, **_kwargs: Any) -> Any:
        return form(hidden)

    with ExitStack() as stack:
        for layer in skipped:
            stack.enter_context(_replaced_forward(layer, skip))
        stack.enter_context(_replaced_forward(last, inject))
        yield


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    previous = module.__dict__.get("forward")  # accelerate sets its own
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if previous is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = previous


@contextmanager
def added(module: nn.Module, change: Tensor) -> Iterator[None]:
    """Add ``change`` to a module's output, which may flatten rows and positions.

    Args:
        module: one that returns a tensor.
        change: as many numbers as the output, or of a shape that broadcasts to it.
    """

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        moved = change.to(output)
        return output + (moved.view(output.shape) if moved.numel() == output.numel() else moved)

    with module.register_forward_hook(hook):
        yield


@contextmanager
def added_states(
    module: nn.Module, shape: tuple[int, int], rows: Tensor, positions: Tensor, change: Tensor
) -> Iterator[None]:
    """Add to a module's output at ``n`` positions; gradients reach ``change``.

    Args:
        module: one that returns hidden states, perhaps with rows and positions flattened, or a
            tuple that begins with them.
        shape: numbers of rows and positions.
        rows: ``[n]``.
        positions: ``[n]``.
        change: ``[n, hidden_size]``.
    """

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = hidden_states(output)
        device = hidden.device
        moved = torch.zeros(*shape, hidden.shape[-1], dtype=change.dtype, device=device)
        moved = moved.index_put((rows.to(device), positions.to(device)), change.to(device))
        changed = (hidden + moved.view(hidden.shape)).to(hidden.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    with module.register_forward_hook(hook):
        yield


@contextmanager
def replaced_states(
    module: nn.Module, shape: tuple[int, int], positions: Tensor, states: Tensor
) -> Iterator[None]:
    """Replace a module's output at one position of every row.

    Args:
        module: one that returns a tensor of hidden states, perhaps with rows and positions
            flattened.
        shape: numbers of rows and positions.
        positions: ``[rows]``, on the CPU.
        states: ``[rows, hidden_size]``, what to return there.
    """

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        changed.view(*shape, -1)[range(shape[0]), positions] = states.to(output)
        return changed

    with module.register_forward_hook(hook):
        yield


@contextmanager
def gathered(head: nn.Module, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Compute the head only at the given positions.

    Within the block the model's logits are ``[1, n, vocabulary]`` for ``n`` pairs of a row and a
    position, in the head's type. What a model does to its logits after the head (soft-capping,
    scaling) still applies.
    """

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        device = args[0].device  # the device of the layer below, in a sharded model
        chosen = args[0][rows.to(device), positions.to(device)].unsqueeze(0)
        return (chosen.to(next(head.parameters()).dtype), *args[1:])

    with head.register_forward_pre_hook(hook):
        yield

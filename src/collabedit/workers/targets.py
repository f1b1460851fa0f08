"""Targets found by workers: a batch of edits is a unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

from torch import Tensor

from collabedit.editing.targets import optimise_targets
from collabedit.editors import Contexts, Hyperparameters
from collabedit.errors import ModelError
from collabedit.models import LanguageModel, load_model
from collabedit.progress import progress
from collabedit.requests import EditRequest

__all__ = ["ModelSource", "SolvedByWorkers", "resident_model"]


@dataclass(frozen=True)
class ModelSource:
    """What a worker loads a model from; the arguments of :func:`collabedit.models.load_model`."""

    name: str
    dtype: str = "float32"
    device: str | None = None
    memory_budget: int | None = None
    trust_remote_code: bool = False

    def load(self) -> LanguageModel:
        """Load the model.

        Raises:
            ModelError: when it cannot be loaded.
        """
        return load_model(
            self.name,
            dtype=self.dtype,
            device=self.device,
            memory_budget=self.memory_budget,
            trust_remote_code=self.trust_remote_code,
        )


@lru_cache(maxsize=1)
def resident_model(source: ModelSource) -> LanguageModel:
    """The model that this worker keeps; of a checkpoint in the asked type, its files are mapped.

    So several workers of a machine have the weights in memory once, but those that they edit.
    """
    return source.load()


@dataclass(frozen=True)
class SolvedByWorkers:
    """Finds the targets of batches on workers, as :func:`optimise_targets` asks for it.

    Attributes:
        executor: the workers.
        source: what they load the model from.
        unedited: SHA-256 by name of the weights that edits may change, as the source has them.
    """

    executor: Executor
    source: ModelSource
    unedited: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, executor: Executor, source: ModelSource, model: LanguageModel) -> SolvedByWorkers:
        """For a model that was just loaded from its source."""
        return cls(executor, source, model.fingerprint(_editable(model)))

    def __call__(
        self,
        model: LanguageModel,
        batches: Sequence[Sequence[EditRequest]],
        contexts: Contexts,
        settings: Hyperparameters,
        quick: bool,
        max_tokens: int,
    ) -> Iterator[Tensor]:
        """The targets ``[d_out, edits]`` of one batch after the other."""
        now = model.fingerprint(list(self.unedited))
        changed = {
            name: model.stored(name).cpu() for name in now if now[name] != self.unedited[name]
        }
        state = model.state_fingerprint()
        futures = [
            self.executor.submit(
                _solve, self.source, state, changed, batch, contexts, settings, quick, max_tokens
            )
            for batch in batches
        ]
        with progress("Optimising targets", sum(map(len, batches)), "edits") as bar:
            for future, batch in zip(futures, batches, strict=True):
                yield future.result()
                bar.advance(len(batch))


def _solve(
    source: ModelSource,
    state: str,
    changed: Mapping[str, Tensor],
    batch: Sequence[EditRequest],
    contexts: Contexts,
    settings: Hyperparameters,
    quick: bool,
    max_tokens: int,
) -> Tensor:
    """A worker's unit: the targets of one batch on the model in the given state."""
    model = resident_model(source)
    with _with_weights(model, changed):
        if model.state_fingerprint() != state:
            raise ModelError(
                f"{source.name} is another model on the worker; give all machines the same files"
            )
        return optimise_targets(
            model,
            batch,
            contexts,
            settings,
            quick=quick,
            max_edits=len(batch),
            max_tokens=max_tokens,
        )


@contextmanager
def _with_weights(model: LanguageModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Put weights in place of the model's within the block."""
    with ExitStack() as stack:
        for name, weight in weights.items():
            stored = model.stored(name)
            stack.callback(stored.copy_, stored.clone())
            stored.copy_(weight)
        yield


def _editable(model: LanguageModel) -> list[str]:
    return model.weight_names(range(model.structure.n_layers))

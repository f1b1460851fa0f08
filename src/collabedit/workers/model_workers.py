"""Work on a model, shared among workers: targets, second moments, scores and written texts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from torch import Tensor

from collabedit.covariance import Corpus, Plan, SelfCorpus
from collabedit.covariance.collector import Block, block_products
from collabedit.covariance.corpus import Report, SameText, Window
from collabedit.covariance.sums import InputProduct
from collabedit.editing.targets import optimise_targets
from collabedit.editors import Contexts, Hyperparameters
from collabedit.errors import ModelError
from collabedit.evaluation.generation import Draws, sample_here
from collabedit.evaluation.greedy import Batch, Continuation, decode_here
from collabedit.evaluation.scoring import Reading, read_here
from collabedit.models import LanguageModel, load_model
from collabedit.progress import progress
from collabedit.requests import EditRequest

__all__ = ["ModelSource", "ModelWorkers", "resident_model"]

Result = TypeVar("Result")
Texts = TypeVar("Texts", bound=Sized)

#: Maximum units submitted before the result of the first is used.
_AHEAD = 64
#: Batches of scores per unit. With more, edited weights are sent less often; with fewer, more
#: workers are busy.
_READINGS = 4
#: Maximum texts per unit, made up of whole batches; a larger batch is a unit of its own.
_TEXTS = 64


@dataclass(frozen=True)
class ModelSource:
    """Where a worker loads a model from: the arguments of :func:`collabedit.models.load_model`."""

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
    """The model that this worker keeps loaded.

    A checkpoint stored in the source's ``dtype`` is memory-mapped, so that the workers of a machine
    share all weights but the edited ones.
    """
    return source.load()


@dataclass(frozen=True)
class ModelWorkers:
    """Workers that compute with this process's model in its current state, edited or not.

    Pass its methods to :func:`collabedit.editing.optimise_targets` as ``solve``, to
    :func:`collabedit.evaluation.evaluate` as ``read``, to
    :func:`collabedit.evaluation.answer_records` as ``decode`` and to
    :func:`collabedit.evaluation.evaluate_generations` as ``sample``, and the object itself to
    :func:`collabedit.covariance.collect` as ``share``.

    Attributes:
        executor: the workers.
        source: where they load the model from.
        unedited: by name, the SHA-256 of each weight that edits may change, as in the source.
    """

    executor: Executor
    source: ModelSource
    unedited: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, executor: Executor, source: ModelSource, model: LanguageModel) -> ModelWorkers:
        """Workers for a model that has just been loaded from its source."""
        return cls(executor, source, model.fingerprint(_editable(model)))

    def map(
        self,
        model: LanguageModel,
        function: Callable[..., Result],
        units: Iterable[tuple[Any, ...]],
        ahead: int = _AHEAD,
    ) -> Iterator[Result]:
        """Results of ``function(model, *unit)``, in the order of the units.

        Args:
            model: the model; each worker brings its own copy to the same state.
            function: an importable function.
            units: its arguments after the model, one tuple per unit.
            ahead: maximum units submitted before the result of the first is used.
        """
        now = model.fingerprint(list(self.unedited))
        changed = {
            name: model.stored(name).cpu() for name in now if now[name] != self.unedited[name]
        }
        state = model.state_fingerprint()
        pending: deque[Future[Result]] = deque()
        for unit in units:
            pending.append(
                self.executor.submit(_on_model, self.source, state, changed, function, unit)
            )
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def solve(
        self,
        model: LanguageModel,
        batches: Sequence[Sequence[EditRequest]],
        contexts: Contexts,
        settings: Hyperparameters,
        quick: bool,
        max_tokens: int,
    ) -> Iterator[Tensor]:
        """Each batch's targets ``[d_out, edits]``, in order."""
        units = [(batch, contexts, settings, quick, max_tokens) for batch in batches]
        with progress("Optimising targets", sum(map(len, batches)), "edits") as bar:
            for batch, found in zip(batches, self.map(model, _solved, units), strict=True):
                bar.advance(len(batch))
                yield found

    def read(
        self, model: LanguageModel, readings: Sequence[Reading]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch's losses of target tokens, and whether each token is the most likely one."""
        starts = range(0, len(readings), _READINGS)
        units = [(readings[start : start + _READINGS],) for start in starts]
        for found in self.map(model, _read, units):
            yield from found

    def decode(
        self, model: LanguageModel, batches: Sequence[Batch]
    ) -> Iterator[list[Continuation]]:
        """Each batch's greedy continuations, in order."""
        for found in self.map(model, _decoded, _joined(batches)):
            yield from found

    def sample(self, model: LanguageModel, batches: Sequence[Draws]) -> Iterator[Tensor]:
        """Each batch's sampled token ids ``[rows, length]``, in order."""
        for found in self.map(model, _sampled, _joined(batches)):
            yield from found

    def corpus(self, model: LanguageModel, corpus: Corpus) -> Corpus:
        """The corpus; if the model itself writes it, the workers do."""
        return _Written(self, corpus) if isinstance(corpus, SelfCorpus) else corpus

    def products(
        self,
        model: LanguageModel,
        names: Sequence[str],
        blocks: Iterable[Block],
        batch_tokens: int,
        report: Report,
    ) -> Iterator[dict[str, InputProduct]]:
        """Each block's products of the down-projections' inputs, in order."""
        units = ((list(names), block, batch_tokens) for block in blocks)
        ahead = 1 + getattr(self.executor, "count", 1)  # enough to keep all busy: results are large
        for tokens, found in self.map(model, _products, units, ahead):
            report(tokens)
            yield found


class _Written(SameText):
    """A corpus whose chunks are written by workers, each identified by its number."""

    def __init__(self, workers: ModelWorkers, whole: SelfCorpus) -> None:
        super().__init__(whole)
        self._workers, self._whole = workers, whole

    def chunks(
        self, model: LanguageModel, plan: Plan, start: int, report: Report
    ) -> Iterator[list[Window]]:
        """The chunks of the corpus, as many as the plan needs."""
        rows, length, batches = self._whole.sizes(plan)
        numbers = range(start, max(batches, start + 1))
        for chunk in self._workers.map(model, _chunk, ((self._whole, plan, n) for n in numbers)):
            report(rows * length)
            yield chunk
        yield from self._whole.chunks(model, plan, numbers.stop, report)


def _on_model(
    source: ModelSource,
    state: str,
    changed: Mapping[str, Tensor],
    function: Callable[..., Result],
    unit: tuple[Any, ...],
) -> Result:
    """Compute a unit in a worker, on the model in the given state."""
    model = resident_model(source)
    with _with_weights(model, changed):
        if model.state_fingerprint() != state:
            raise ModelError(
                f"{source.name} is another model on the worker; give all machines the same files"
            )
        return function(model, *unit)


def _solved(
    model: LanguageModel,
    batch: Sequence[EditRequest],
    contexts: Contexts,
    settings: Hyperparameters,
    quick: bool,
    max_tokens: int,
) -> Tensor:
    return optimise_targets(
        model,
        batch,
        contexts,
        settings,
        quick=quick,
        max_edits=len(batch),
        max_tokens=max_tokens,
    )


def _read(model: LanguageModel, readings: Sequence[Reading]) -> list[tuple[Tensor, Tensor]]:
    return list(read_here(model, readings))


def _joined(batches: Sequence[Texts]) -> Iterator[tuple[list[Texts]]]:
    """Units of one or more whole batches, in order."""
    unit: list[Texts] = []
    for batch in batches:
        if unit and sum(map(len, unit)) + len(batch) > _TEXTS:
            yield (unit,)
            unit = []
        unit.append(batch)
    if unit:
        yield (unit,)


def _decoded(model: LanguageModel, batches: Sequence[Batch]) -> list[list[Continuation]]:
    return list(decode_here(model, batches))


def _sampled(model: LanguageModel, batches: Sequence[Draws]) -> list[Tensor]:
    return list(sample_here(model, batches))


def _products(
    model: LanguageModel, names: Sequence[str], block: Block, batch_tokens: int
) -> tuple[int, dict[str, InputProduct]]:
    return sum(map(len, block)), block_products(model, names, block, batch_tokens)


def _chunk(model: LanguageModel, corpus: SelfCorpus, plan: Plan, number: int) -> list[Window]:
    return next(corpus.chunks(model, plan, number, lambda _tokens: None))


@contextmanager
def _with_weights(model: LanguageModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace some of the model's weights within the block."""
    with ExitStack() as stack:
        for name, weight in weights.items():
            stored = model.stored(name)
            stack.callback(stored.copy_, stored.clone())
            stored.copy_(weight)
        yield


def _editable(model: LanguageModel) -> list[str]:
    return model.weight_names(range(model.structure.n_layers))

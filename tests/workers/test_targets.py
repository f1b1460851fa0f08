"""Targets that workers find are those found here, whatever the executor and the model's state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collabedit.editing import optimise_targets
from collabedit.editors import Hyperparameters
from collabedit.errors import ModelError
from collabedit.models import LanguageModel
from collabedit.workers import ModelSource, SolvedByWorkers, WorkerExecutor, resident_model
from collabedit.workers.processes import ProcessWorker
from tests.conftest import make_model, save_model
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.models.test_language_model import change

SETTINGS = Hyperparameters(layers=(1,), target_steps=3)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[ModelSource]:
    model = make_model("llama")
    save_model(model, tmp_path / "model")
    yield ModelSource(str(tmp_path / "model"), device="cpu")
    resident_model.cache_clear()


class Inline(Executor):
    """Does the work when it is asked for; the smallest executor there is."""

    submitted = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted += 1
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def found(model: LanguageModel, solve: SolvedByWorkers | None = None) -> Tensor:
    return optimise_targets(model, REQUESTS, CONTEXTS, SETTINGS, max_edits=2, solve=solve)


def test_a_batch_is_a_unit(source: ModelSource) -> None:
    model, executor = source.load(), Inline()
    solve = SolvedByWorkers.of(executor, source, model)
    assert torch.equal(found(model, solve), found(model))
    assert executor.submitted == 3


def test_any_executor_will_do(source: ModelSource) -> None:
    model = source.load()
    with ThreadPoolExecutor(1) as executor:
        solve = SolvedByWorkers.of(executor, source, model)
        assert torch.equal(found(model, solve), found(model))


def test_workers_go_by_the_model_as_it_is(source: ModelSource) -> None:
    model = source.load()
    solve = SolvedByWorkers.of(Inline(), source, model)
    unedited = found(model, solve)
    (name,) = model.weight_names([0])
    with model.starting_from({name: change(model)}):
        edited = found(model, solve)
        assert torch.equal(edited, found(model))
    assert not torch.equal(edited, unedited)
    assert torch.equal(found(model, solve), unedited)  # the worker's model is as it was
    assert resident_model(source).state_fingerprint() == model.state_fingerprint()


def test_a_worker_with_another_model_says_so(source: ModelSource) -> None:
    model = source.load()
    other = resident_model(source)
    other.head.weight.mul_(2)
    with pytest.raises(ModelError, match="another model on the worker; give all machines the same"):
        found(model, SolvedByWorkers.of(Inline(), source, model))


def weights_of_its_own(source: ModelSource) -> int:
    """Kilobytes of the checkpoint that this process has for itself, having read them all."""
    resident_model(source).state_fingerprint()
    lines, own, inside = Path("/proc/self/smaps").read_text().splitlines(), 0, False
    for line in lines:
        if not line.split()[0].endswith(":"):
            inside = line.endswith("model.safetensors")
        elif inside and line.startswith("Anonymous:"):
            own += int(line.split()[1])
    return own


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="tells by Linux's smaps")
def test_workers_of_a_machine_share_the_weights(source: ModelSource) -> None:
    """They are mapped from the checkpoint, and only what is written to is copied."""
    with WorkerExecutor(lambda: ProcessWorker(1), 1) as workers:
        assert workers.submit(weights_of_its_own, source).result() == 0

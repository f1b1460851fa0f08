"""What workers compute is what is computed here, whatever the executor and the model's state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collabedit.covariance import Corpus, SelfCorpus, TextCorpus, collect
from collabedit.covariance.checkpoint import Checkpoint
from collabedit.covariance.sums import Sums
from collabedit.datasets import load_dataset
from collabedit.editing import optimise_targets
from collabedit.editors import Hyperparameters
from collabedit.errors import ModelError
from collabedit.evaluation import answer_records, evaluate, greedy
from collabedit.evaluation.generation import generate
from collabedit.models import LanguageModel
from collabedit.workers import (
    ModelSource,
    ModelWorkers,
    WorkerExecutor,
    model_workers,
    resident_model,
)
from collabedit.workers.processes import ProcessWorker
from tests.conftest import CORPUS, make_model, save_model
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.models.test_language_model import change
from tests.workers.units import KillsOne

SETTINGS = Hyperparameters(layers=(1,), target_steps=3)
PROMPTS = ["The capital of France is", "She speaks", "Rome", "The capital of France is"] * 3
TEXTS = TextCorpus("texts", {}, lambda: CORPUS * 20)


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


def found(model: LanguageModel, workers: ModelWorkers | None = None) -> Tensor:
    solve = workers.solve if workers else None
    return optimise_targets(model, REQUESTS, CONTEXTS, SETTINGS, max_edits=2, solve=solve)


def collected(
    model: LanguageModel, corpus: Corpus, out: Path | None, workers: ModelWorkers | None
) -> dict[str, Any]:
    """All numbers of a collection over several blocks."""
    covariance = collect(
        model, (0, 1), corpus, tokens=700, max_length=24, out=out, say=lambda _: None, share=workers
    )
    moments = {name: m.numpy().tobytes() for name, m in covariance.second_moments.items()}
    return {"moments": moments, "errors": covariance.sampling_error, "n": covariance.samples}


def test_a_batch_is_a_unit(source: ModelSource) -> None:
    model, executor = source.load(), Inline()
    workers = ModelWorkers.of(executor, source, model)
    assert torch.equal(found(model, workers), found(model))
    assert executor.submitted == 3


def test_any_executor_will_do(source: ModelSource) -> None:
    model = source.load()
    with ThreadPoolExecutor(1) as executor:
        workers = ModelWorkers.of(executor, source, model)
        assert torch.equal(found(model, workers), found(model))


def test_workers_go_by_the_model_as_it_is(source: ModelSource) -> None:
    model = source.load()
    workers = ModelWorkers.of(Inline(), source, model)
    unedited = found(model, workers)
    (name,) = model.weight_names([0])
    with model.starting_from({name: change(model)}):
        edited = found(model, workers)
        assert torch.equal(edited, found(model))
    assert not torch.equal(edited, unedited)
    assert torch.equal(found(model, workers), unedited)  # the worker's model is as it was
    assert resident_model(source).state_fingerprint() == model.state_fingerprint()


def test_a_worker_with_another_model_says_so(source: ModelSource) -> None:
    model = source.load()
    other = resident_model(source)
    other.head.weight.mul_(2)
    with pytest.raises(ModelError, match="another model on the worker; give all machines the same"):
        found(model, ModelWorkers.of(Inline(), source, model))


@pytest.mark.parametrize("corpus", [TEXTS, SelfCorpus(3)], ids=["text", "self"])
def test_second_moments(source: ModelSource, corpus: Corpus, tmp_path: Path) -> None:
    model, executor = source.load(), Inline()
    workers = ModelWorkers.of(executor, source, model)
    here = collected(model, corpus, None, None)
    assert collected(model, corpus, None, workers) == here
    assert executor.submitted > 5  # blocks are units
    assert collected(model, corpus, tmp_path / "c.safetensors", workers) == here


def test_second_moments_a_layer_at_a_time(source: ModelSource) -> None:
    source = replace(source, memory_budget=1)
    model = source.load()
    workers = ModelWorkers.of(Inline(), source, model)
    assert collected(model, SelfCorpus(3), None, workers) == collected(
        model, SelfCorpus(3), None, None
    )


def test_a_collection_begun_here_is_continued_by_workers(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collabedit.covariance.checkpoint._CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("collabedit.covariance.checkpoint._CHECKPOINT_RATIO", 0.0)
    model, out = source.load(), tmp_path / "c.safetensors"
    workers = ModelWorkers.of(Inline(), source, model)
    expected = collected(model, TEXTS, None, None)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "offer", _interrupted_after(3))
        with pytest.raises(KeyboardInterrupt):
            collected(model, TEXTS, out, None)
    assert out.with_name("c.safetensors.partial").is_file()
    assert collected(model, TEXTS, out, workers) == expected


def _interrupted_after(chunks: int) -> Callable[..., None]:
    offer = Checkpoint.offer

    def interrupted(self: Checkpoint, sums: Sums) -> None:
        offer(self, sums)
        if sums.chunks == chunks:
            raise KeyboardInterrupt

    return interrupted


def scores(model: LanguageModel, workers: ModelWorkers | None) -> Any:
    read = {"read": workers.read} if workers else {}
    return evaluate(model, load_dataset("worldfacts")[:3], max_tokens=64, **read)


def answers(model: LanguageModel, workers: ModelWorkers | None) -> Any:
    decode = workers.decode if workers else None
    return answer_records(model, load_dataset("worldfacts")[:3], decode=decode)


def generations(model: LanguageModel, workers: ModelWorkers | None) -> Any:
    sample = workers.sample if workers else None
    return generate(model, PROMPTS, max_length=12, sample=sample)


@pytest.mark.parametrize("compute", [scores, answers, generations])
def test_workers_compute_with_an_edited_model(
    source: ModelSource, compute: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greedy, "_ROWS", 4)
    monkeypatch.setattr(model_workers, "_READINGS", 2)
    monkeypatch.setattr(model_workers, "_TEXTS", 4)
    model, executor = source.load(), Inline()
    workers = ModelWorkers.of(executor, source, model)
    (name,) = model.weight_names([1])
    with model.edited({name: change(model)}):
        here = compute(model, None)
        assert compute(model, workers) == here
    assert executor.submitted > 2
    assert compute(model, workers) != here


@pytest.mark.parametrize(
    ("sizes", "units"),
    [
        ([], []),
        ([64], [[64]]),
        ([200], [[200]]),  # a batch is never split
        ([64, 64, 3], [[64], [64], [3]]),
        ([60, 4, 1, 2, 61, 1], [[60, 4], [1, 2, 61], [1]]),
    ],
)
def test_units_of_texts_are_whole_batches(sizes: list[int], units: list[list[int]]) -> None:
    joined = model_workers._joined([range(size) for size in sizes])
    assert [[len(batch) for batch in unit] for (unit,) in joined] == units


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greedy, "_ROWS", 4)
    monkeypatch.setattr(model_workers, "_TEXTS", 4)
    model, records = source.load(), load_dataset("worldfacts")[:3]
    moments, cases = collected(model, SelfCorpus(3), None, None), evaluate(model, records)
    answers, texts = answer_records(model, records), generate(model, PROMPTS, max_length=12)
    with WorkerExecutor(lambda: ProcessWorker(torch.get_num_threads()), 2) as executor:
        for number, act in enumerate(
            [
                lambda w: collected(model, SelfCorpus(3), None, w) == moments,
                lambda w: evaluate(model, records, read=w.read) == cases,
                lambda w: answer_records(model, records, decode=w.decode) == answers,
                lambda w: generate(model, PROMPTS, max_length=12, sample=w.sample) == texts,
            ]
        ):
            killing = KillsOne(executor, tmp_path / f"killed-{number}")
            assert act(ModelWorkers.of(killing, source, model))
            assert killing.marker.exists()


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

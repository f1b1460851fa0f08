"""Workers: how much faster two single-threaded workers are than one, by stage, on idle cores.

    python -m benchmarks.workers [--model smollm2-135m] [--workers 2] [--edits 16] [--tokens 8192]

Prints each stage's seconds with one worker and with several, both with the model already loaded,
and the processor time of all of them: if that grows, the cores are shared or memory is the limit.
The results must be identical to the byte.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from hashlib import sha256
from typing import Any

from benchmarks.machine import print_machine
from benchmarks.report import print_ratio
from collabedit.covariance import collect, own_corpus
from collabedit.datasets import load_dataset
from collabedit.editing import optimise_targets, sample_contexts
from collabedit.editors import Hyperparameters, default_hyperparameters
from collabedit.evaluation import answer_records, evaluate
from collabedit.models import LanguageModel
from collabedit.workers import ModelSource, ModelWorkers, open_workers, resident_model

#: Units of targets per worker, so that the workers finish together.
_UNITS = 4
#: Records that are measured, and asked: fewer are too few units to share.
_RECORDS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--edits", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=8192)
    options = parser.parse_args()
    print_machine()
    source = ModelSource(options.model)
    model = source.load()
    settings = default_hyperparameters(model.name, model.structure).hyperparameters
    unit = max(1, options.edits // (_UNITS * options.workers))
    stages = stages_of(model, settings, options.edits, unit, options.tokens)
    single = timings(source, model, stages, 1)
    several = timings(source, model, stages, options.workers)
    for name in stages:
        one, more = single[name], several[name]
        if one["digest"] != more["digest"]:
            raise SystemExit(f"{name}: not the same bytes")
        print(f"{name:<34} {one['seconds']:8.2f} s with one, {more['seconds']:.2f} s with more")
        print_ratio("  sooner", one["seconds"] / more["seconds"], 0.8 * options.workers)
        print(f"{'  processor time, more / one':<34} {more['busy'] / one['busy']:10.2f}")


Stage = Callable[[ModelWorkers], Any]


def stages_of(
    model: LanguageModel,
    settings: Hyperparameters,
    edits: int,
    max_edits: int,
    tokens: int,
) -> dict[str, Stage]:
    """The stages to time, each of which returns its result as bytes."""
    contexts = sample_contexts(model, 0)
    dataset = load_dataset("worldfacts")
    requests, records = [record.request for record in dataset[:edits]], dataset[:_RECORDS]

    def targets(workers: ModelWorkers) -> bytes:
        result = optimise_targets(
            model, requests, contexts, settings, max_edits=max_edits, solve=workers.solve
        )
        return result.numpy().tobytes()

    def covariance(workers: ModelWorkers) -> bytes:
        corpus = own_corpus(model, None, 0)
        result = collect(model, settings.layers, corpus, tokens=tokens, share=workers)
        return b"".join(moment.numpy().tobytes() for moment in result.second_moments.values())

    def evaluation(workers: ModelWorkers) -> bytes:
        return repr(evaluate(model, records, read=workers.read)).encode()

    def answers(workers: ModelWorkers) -> bytes:
        return repr(answer_records(model, records, decode=workers.decode)).encode()

    return {
        "targets": targets,
        "covariance": covariance,
        "evaluation": evaluation,
        "answers": answers,
    }


def timings(
    source: ModelSource, model: LanguageModel, stages: dict[str, Stage], count: int
) -> dict[str, dict[str, Any]]:
    """By stage: wall seconds, processor seconds of all processes, and the result's digest."""
    measured: dict[str, dict[str, Any]] = {}
    with open_workers(str(count)) as executor:
        assert executor is not None
        warm_up(executor, source, count)
        workers = ModelWorkers.of(executor, source, model)
        for name, stage in stages.items():
            busy, began = used(executor, count), time.perf_counter()
            digest = sha256(stage(workers)).hexdigest()
            seconds = time.perf_counter() - began
            spent = used(executor, count) - busy
            measured[name] = {"seconds": seconds, "busy": spent, "digest": digest}
    return measured


def warm_up(executor: Executor, source: ModelSource, count: int) -> None:
    """Make every worker load the model; each sleeps, so that none takes two units."""
    list(executor.map(_loaded, [source] * count))


def used(executor: Executor, count: int) -> float:
    """Processor seconds so far of this process and its workers."""
    here = os.times()
    workers = dict(executor.map(_process_time, range(count)))
    return here.user + here.system + sum(workers.values())


def _loaded(source: ModelSource) -> None:
    resident_model(source).state_fingerprint()
    time.sleep(2)


def _process_time(_number: int) -> tuple[int, float]:
    time.sleep(0.3)  # so that each worker takes one
    return os.getpid(), time.process_time()


if __name__ == "__main__":
    main()

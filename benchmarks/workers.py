"""Workers: how much sooner two of one thread are done than one, stage by stage, on idle cores.

    python -m benchmarks.workers [--model smollm2-135m] [--workers 2] [--edits 16] [--tokens 8192]

Prints each stage's seconds with one worker and with several, both with the model loaded already,
and the processor time that all of them took: where that grows, the cores are shared or the memory
is the limit. What comes out must be the same bytes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from hashlib import sha256
from typing import Any

from benchmarks.machine import print_machine
from benchmarks.report import print_ratio
from collabedit.covariance import collect, own_corpus
from collabedit.datasets import load_dataset
from collabedit.editing import optimise_targets, sample_contexts
from collabedit.editors import Hyperparameters, default_hyperparameters
from collabedit.evaluation import evaluate
from collabedit.models import LanguageModel
from collabedit.requests import Record
from collabedit.workers import ModelSource, ModelWorkers, open_workers, resident_model

#: Units of targets for each worker, so that the last ones end together.
_UNITS = 4


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
    records = load_dataset("worldfacts")[: options.edits]
    each = max(1, options.edits // (_UNITS * options.workers))
    stages = stages_of(model, settings, records, each, options.tokens)
    single = timings(source, model, stages, 1)
    several = timings(source, model, stages, options.workers)
    for name in stages:
        one, more = single[name], several[name]
        if one["found"] != more["found"]:
            raise SystemExit(f"{name}: not the same bytes")
        print(f"{name:<34} {one['seconds']:8.2f} s with one, {more['seconds']:.2f} s with more")
        print_ratio("  sooner", one["seconds"] / more["seconds"], 0.8 * options.workers)
        print(f"{'  processor time, more / one':<34} {more['busy'] / one['busy']:10.2f}")


Stage = Callable[[ModelWorkers], Any]


def stages_of(
    model: LanguageModel,
    settings: Hyperparameters,
    records: Sequence[Record],
    max_edits: int,
    tokens: int,
) -> dict[str, Stage]:
    """What is timed, each as a digest of what comes out."""
    contexts = sample_contexts(model, 0)
    requests = [record.request for record in records]

    def targets(workers: ModelWorkers) -> bytes:
        found = optimise_targets(
            model, requests, contexts, settings, max_edits=max_edits, solve=workers.solve
        )
        return found.numpy().tobytes()

    def covariance(workers: ModelWorkers) -> bytes:
        corpus = own_corpus(model, None, 0)
        found = collect(model, settings.layers, corpus, tokens=tokens, share=workers)
        return b"".join(moment.numpy().tobytes() for moment in found.second_moments.values())

    def evaluation(workers: ModelWorkers) -> bytes:
        return repr(evaluate(model, records, read=workers.read)).encode()

    return {"targets": targets, "covariance": covariance, "evaluation": evaluation}


def timings(
    source: ModelSource, model: LanguageModel, stages: dict[str, Stage], count: int
) -> dict[str, dict[str, Any]]:
    """By stage: wall seconds, processor seconds of all processes, and the result's digest."""
    found: dict[str, dict[str, Any]] = {}
    with open_workers(str(count)) as executor:
        assert executor is not None
        warm_up(executor, source, count)
        workers = ModelWorkers.of(executor, source, model)
        for name, stage in stages.items():
            busy, began = used(executor, count), time.perf_counter()
            digest = sha256(stage(workers)).hexdigest()
            seconds = time.perf_counter() - began
            spent = used(executor, count) - busy
            found[name] = {"seconds": seconds, "busy": spent, "found": digest}
    return found


def warm_up(executor: Executor, source: ModelSource, count: int) -> None:
    """Have every worker load the model; the nap keeps one from taking two units."""
    list(executor.map(_loaded, [source] * count))


def used(executor: Executor, count: int) -> float:
    """Processor seconds so far of this process and its workers."""
    own = os.times()
    workers = dict(executor.map(_process_time, range(count)))
    return own.user + own.system + sum(workers.values())


def _loaded(source: ModelSource) -> None:
    resident_model(source).state_fingerprint()
    time.sleep(2)


def _process_time(_number: int) -> tuple[int, float]:
    time.sleep(0.3)  # so that each worker takes one
    return os.getpid(), time.process_time()


if __name__ == "__main__":
    main()

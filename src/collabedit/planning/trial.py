"""A short trial of every stage on this machine, to estimate how long the real work takes."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from collabedit.algebra import BlockPrior, Factors, Prior, compress, solve
from collabedit.covariance import SelfCorpus, TextCorpus, collect
from collabedit.datasets import load_dataset
from collabedit.editing import measure, optimise_targets
from collabedit.evaluation import evaluate
from collabedit.messages import Schedule
from collabedit.models import LanguageModel
from collabedit.models.quiet import without_progress_bars
from collabedit.parties import fine_tune
from collabedit.planning.costs import Cost, ModelShape, Workload, estimate
from collabedit.planning.machine import resident, with_peak_memory
from collabedit.progress import say
from collabedit.requests import EditRequest

__all__ = ["Measured", "Rates", "Trial", "run_trial", "typical_rates"]

Result = TypeVar("Result")
#: Amounts per second, by stage.
Rates = Mapping[str, float]

#: Share of the rate of large products that stages reach, and bytes per second of a disk.
_SHARE = 0.35
_DISK = 500_000_000.0

_CONTEXTS = (
    ("{}",),
    tuple(f"Of all that was said {word} they kept this. {{}}" for word in "ABCDE"),
)


@dataclass(frozen=True)
class Measured:
    """What a stage took in the trial.

    Attributes:
        memory: bytes of the process at its peak.
        seconds: how long it took.
    """

    memory: int
    seconds: float


@dataclass
class Trial:
    """A finished trial.

    Attributes:
        work: what was done.
        expected: what was estimated for it.
        measured: what each stage took.
    """

    work: Workload
    expected: Mapping[str, Cost]
    measured: dict[str, Measured] = field(default_factory=dict)

    @property
    def rates(self) -> Rates:
        """Operations, or bytes of files, per second."""
        return {
            stage: self.expected[stage].amount / max(measured.seconds, 1e-3)
            for stage, measured in self.measured.items()
        }


def typical_rates(
    dtype: torch.dtype, device: torch.device, *, quick: bool = False
) -> dict[str, float]:
    """The rates that stages reach on a device, from the rate of large products measured now.

    Args:
        dtype: type of the weights.
        device: where the model computes.
        quick: whether targets are found in bfloat16.
    """
    weights = _SHARE * _product_rate(dtype, device)
    stages = dict.fromkeys(("covariance", "targets", "keys", "evaluation"), weights)
    if quick:
        stages["targets"] = _SHARE * _product_rate(torch.bfloat16, device)
    merge = _SHARE * _product_rate(torch.float64, torch.device("cpu"))
    return {**stages, "merge": merge, "load": _DISK, "save": _DISK}


def run_trial(
    load: Callable[[], LanguageModel],
    work: Workload,
    *,
    edits: int = 2,
    tokens: int = 2048,
    saving: bool = True,
) -> Trial:
    """Run every stage once, with a few edits from the shipped data set.

    The caches are neither read nor written, and the model stays unedited.

    Args:
        load: loads the model.
        work: the work that the trial stands in for.
        edits: number of edits to make.
        tokens: number of tokens for the covariance.
        saving: whether the model is saved as well.
    """
    stages = _Stages()
    model = stages.run("load", load)
    small = work.with_changes(edits=edits, tokens=tokens, schedule=Schedule.ONE_SHOT)
    shape = ModelShape.of(model.hf, model.structure)
    trial = Trial(small, estimate(shape, small), stages.measured)
    records = load_dataset("worldfacts")[:edits]
    requests = [record.request for record in records]
    settings = work.hyperparameters
    if not work.editor.has_statistics:
        stages.run("targets", lambda: fine_tune(model, requests, settings))
    else:
        moments = stages.run("covariance", lambda: _second_moment(model, small))
        targets = stages.run(
            "targets", lambda: optimise_targets(model, requests, _CONTEXTS, settings)
        )
        factors = stages.run("keys", lambda: _factors(model, small, requests, targets))
        stages.run("merge", lambda: _solved(moments, factors, settings.prior_weight))
        del moments, factors
    stages.run("evaluation", lambda: [evaluate(model, records) for _ in range(2)])
    if saving:
        stages.run("save", lambda: _save(model))
    return trial


class _Stages:
    def __init__(self) -> None:
        self.measured: dict[str, Measured] = {}

    def run(self, name: str, function: Callable[[], Result]) -> Result:
        say(f"Trying: {name}")
        before = resident()
        began = time.perf_counter()
        result, grown = with_peak_memory(function)
        self.measured[name] = Measured(before + grown, time.perf_counter() - began)
        return result


def _second_moment(model: LanguageModel, work: Workload) -> Mapping[str, torch.Tensor]:
    """The matrix, made positive definite: so few tokens leave it singular, as is no surprise."""
    corpus: Any = SelfCorpus(0) if work.own_text else TextCorpus("worldfacts", {}, _sentences)
    with _errors_only(logging.getLogger("collabedit.covariance")):
        collected = collect(
            model, work.hyperparameters.layers, corpus, tokens=work.tokens, say=lambda _: None
        )
    for moment in collected.second_moments.values():
        diagonal = moment.diagonal(dim1=-2, dim2=-1)
        diagonal.add_(diagonal.mean())
    return collected.second_moments


@contextmanager
def _errors_only(logger: logging.Logger) -> Iterator[None]:
    """Hide a package's warnings within the block."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _sentences() -> Iterator[str]:
    for record in load_dataset("worldfacts"):
        yield f"{record.request.text} {record.request.target_true}."


def _factors(
    model: LanguageModel, work: Workload, requests: list[EditRequest], targets: torch.Tensor
) -> dict[str, Factors]:
    layers = work.hyperparameters.layers
    measurement = measure(model, requests, _CONTEXTS, layers, layers[-1])
    residual = targets.double() - measurement.hidden
    names = model.weight_names(layers)
    return {
        name: compress(measurement.keys[layer], residual)
        for name, layer in zip(names, layers, strict=True)
    }


def _solved(
    moments: Mapping[str, torch.Tensor], factors: Mapping[str, Factors], weight: float
) -> None:
    held = []
    for name, statistics in factors.items():
        prior = _prior(moments[name], weight)
        solve(statistics, prior)
        held.append(prior)


def _prior(moment: torch.Tensor, weight: float) -> Prior:
    if moment.ndim == 2:
        return Prior.from_second_moment(moment, weight)
    return BlockPrior([Prior.from_second_moment(block, weight) for block in moment])


def _save(model: LanguageModel) -> None:
    with tempfile.TemporaryDirectory() as scratch, without_progress_bars():
        model.hf.save_pretrained(Path(scratch) / "model")


def _product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a large matrix product."""
    size = 4096 if device.type == "cuda" else 1024
    left = torch.randn(size, size, device=device).to(dtype)
    left @ left  # the first one is slow
    began = time.perf_counter()
    count = 0
    while time.perf_counter() - began < 0.3:
        product = left @ left
        count += 1
        if device.type == "cuda":
            float(product[0, 0])  # waits for it
    return 2 * size**3 * count / (time.perf_counter() - began)

"""Growth: seconds and peak memory of each stage as edits and parties increase.

    python -m benchmarks.growth [--edits 16 64 256 1024] [--parties 2 4 8 16 32 64]
        [--party-edits 128] [--memory-budgets 256 512 1024] [--dataset FILE] [--steps N]
        [--budget-minutes 3] [--plot FILE.png]

Sizes beyond the data set (worldfacts has 240 records) are left out; ``--dataset`` takes a larger
one. Targets take by far the longest: sizes that do not fit into the budget are estimated from the
largest one measured, and marked ``~``. The second table splits a fixed number of edits over more
and more parties; it leaves out targets. Residuals are random and the prior is diagonal in the
merge, whose cost does not depend on their values. The third compares the peak of every stage that
runs the model with a memory budget, in MB.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.covariance import prompts_corpus
from benchmarks.machine import print_machine, with_peak_memory
from benchmarks.report import timed
from collabedit.algebra import Factors, LowRankUpdate, Prior, compress
from collabedit.covariance import collect
from collabedit.datasets import load_dataset
from collabedit.editing import Measurement, measure, optimise_targets, sample_contexts
from collabedit.editors import Contexts, Hyperparameters, default_hyperparameters
from collabedit.evaluation import evaluate
from collabedit.merging import collab_edit
from collabedit.models import LanguageModel, load_model
from collabedit.requests import EditRequest, Record

#: Number of parties in the first table.
PARTIES = 4
STAGES = ("keys", "targets", "statistics, merge", "evaluation")
PARTY_STAGES = ("keys", "statistics", "merge")
BUDGET_STAGES = ("keys", "targets", "covariance", "evaluation")
#: The peak is reached in the first steps and tokens.
_BUDGET_STEPS = 3
_BUDGET_TOKENS = 8192


@dataclass(frozen=True)
class Cost:
    """What a stage takes.

    Attributes:
        seconds: how long it takes.
        memory: bytes at the peak beyond those before it; ``None`` for an estimate.
    """

    seconds: float
    memory: int | None

    def __str__(self) -> str:
        if self.memory is None:
            return f"~{self.seconds:.0f} s"
        return f"{self.seconds:.2f} s, {self.memory / 1e6:,.0f} MB"


Row = tuple[int, dict[str, Cost]]
Table = dict[int, dict[str, Cost]]


@dataclass(frozen=True)
class Setting:
    """What all sizes have in common."""

    model: LanguageModel
    hyperparameters: Hyperparameters
    contexts: Contexts
    prior: Prior

    @property
    def layers(self) -> tuple[int, ...]:
        """The edited layers."""
        return self.hyperparameters.layers


def main() -> None:
    options = _options()
    print_machine()
    records = load_dataset(options.dataset)
    setting = make_setting(options.model, options.steps)
    prepare(setting, records[:2])
    sizes = [size for size in options.edits if size <= len(records)]
    if left_out := sorted(set(options.edits) - set(sizes)):
        print(f"{options.dataset} has {len(records)} records; left out: {left_out}")
    budget = 60 * options.budget_minutes
    by_edits = printed("edits", STAGES, edits_rows(setting, records, sizes, budget))
    requests = [record.request for record in records[: options.party_edits]]
    counts = [count for count in options.parties if count <= len(requests)]
    rows = ((count, party_costs(setting, requests, count)) for count in counts)
    by_parties = printed(f"parties of {len(requests)} edits", PARTY_STAGES, rows)
    chosen = records[: options.budget_edits]
    rows = budget_rows(setting, chosen, sorted(options.memory_budgets))
    printed(f"MB for {len(chosen)} edits", BUDGET_STAGES, rows)
    if options.plot:
        plot(by_edits, by_parties, len(requests), options.plot)
        print(f"plot: {options.plot}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dataset", default="worldfacts")
    parser.add_argument("--edits", type=int, nargs="*", default=[16, 64, 256, 1024])
    parser.add_argument("--parties", type=int, nargs="*", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--party-edits", type=int, default=128)
    parser.add_argument("--memory-budgets", type=int, nargs="*", default=[256, 512, 1024])
    parser.add_argument("--budget-edits", type=int, default=64)
    parser.add_argument("--steps", type=int, help="of the targets; the model's preset by default")
    parser.add_argument("--budget-minutes", type=float, default=3.0)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def make_setting(model_name: str, steps: int | None) -> Setting:
    """Load the model."""
    model = load_model(model_name)
    preset = default_hyperparameters(model.name, model.structure).hyperparameters
    prior = Prior(preset.prior_weight * torch.eye(model.structure.mlp_size, dtype=torch.float64))
    prior.cholesky  # noqa: B018  (outlives the round)
    settings = preset.with_changes(target_steps=steps)
    return Setting(model, settings, sample_contexts(model, 0), prior)


def prepare(setting: Setting, records: Sequence[Record]) -> None:
    """Run every stage once, so that no table's first row includes warming up."""
    quick = setting.hyperparameters.with_changes(target_steps=1)
    requests = [record.request for record in records]
    optimise_targets(setting.model, requests, setting.contexts, quick)
    party_costs(setting, requests, 1)
    evaluate(setting.model, records)


def cost_of(function: Callable[[], Any]) -> tuple[Any, Cost]:
    """A function's result and its cost."""
    (result, seconds), memory = with_peak_memory(lambda: timed(function))
    return result, Cost(seconds, memory)


def edits_rows(
    setting: Setting, records: Sequence[Record], sizes: Sequence[int], budget: float
) -> Iterator[Row]:
    """The cost of every stage at each number of edits; the targets within a budget of seconds."""
    measured: tuple[int, Cost] | None = None
    for size in sorted(sizes):
        chosen = list(records[:size])
        costs = stage_costs(setting, chosen)
        expected = measured[1].seconds * size / measured[0] if measured else 0.0
        if expected > budget:
            costs["targets"] = Cost(expected, None)
        else:
            costs["targets"] = targets_cost(setting, [record.request for record in chosen])
            measured = size, costs["targets"]
            budget -= costs["targets"].seconds
        yield size, costs


def stage_costs(setting: Setting, records: Sequence[Record]) -> dict[str, Cost]:
    """The cost of all stages except the targets."""
    requests = [record.request for record in records]
    measurement, keys = cost_of(lambda: measured_keys(setting, requests))
    parts = split(range(len(requests)), PARTIES)
    _, merge = cost_of(lambda: merged(setting, statistics(setting, measurement, parts)))
    _, evaluation = cost_of(lambda: evaluate(setting.model, records))
    return {"keys": keys, "statistics, merge": merge, "evaluation": evaluation}


def targets_cost(setting: Setting, requests: Sequence[EditRequest]) -> Cost:
    """The cost of the targets."""
    _, cost = cost_of(
        lambda: optimise_targets(setting.model, requests, setting.contexts, setting.hyperparameters)
    )
    return cost


def party_costs(setting: Setting, requests: Sequence[EditRequest], count: int) -> dict[str, Cost]:
    """The cost of the stages when the requests are split over ``count`` parties."""
    parts = split(range(len(requests)), count)
    shares = [[requests[index] for index in part] for part in parts]
    measurements, keys = cost_of(lambda: [measured_keys(setting, share) for share in shares])
    pooled = Measurement.concatenate(measurements)
    uploads, compressing = cost_of(lambda: statistics(setting, pooled, parts))
    _, merge = cost_of(lambda: merged(setting, uploads))
    return {"keys": keys, "statistics": compressing, "merge": merge}


def budget_rows(
    setting: Setting, records: Sequence[Record], budgets: Sequence[int]
) -> Iterator[Row]:
    """The cost of the stages that run the model, under memory budgets in megabytes."""
    requests = [record.request for record in records]
    few = setting.hyperparameters.with_changes(target_steps=_BUDGET_STEPS)
    corpus = prompts_corpus()
    for megabytes in budgets:
        model = replace(setting.model, memory_budget=megabytes * 10**6)
        bounded = replace(setting, model=model, hyperparameters=few)
        _, covariance = cost_of(
            lambda model=model: collect(
                model, setting.layers, corpus, tokens=_BUDGET_TOKENS, say=lambda _: None
            )
        )
        yield (
            megabytes,
            {
                "keys": cost_of(lambda bounded=bounded: measured_keys(bounded, requests))[1],
                "targets": targets_cost(bounded, requests),
                "covariance": covariance,
                "evaluation": cost_of(lambda model=model: evaluate(model, records))[1],
            },
        )


def measured_keys(setting: Setting, requests: Sequence[EditRequest]) -> Measurement:
    """Keys at all layers."""
    layers = setting.layers
    return measure(setting.model, requests, setting.contexts, layers, layers[-1])


def statistics(
    setting: Setting, measurement: Measurement, parts: Sequence[Sequence[int]]
) -> dict[int, list[Factors]]:
    """Each party's factors, by layer."""
    generator = torch.Generator().manual_seed(0)
    shape = measurement.hidden.shape
    residuals = torch.randn(*shape, dtype=torch.float64, generator=generator)

    def party(keys: Tensor, part: Sequence[int]) -> Factors:
        chosen = list(part)
        return compress(keys[:, chosen], residuals[:, chosen])

    return {
        layer: [party(measurement.keys[layer], part) for part in parts] for layer in setting.layers
    }


def merged(setting: Setting, uploads: dict[int, list[Factors]]) -> dict[int, LowRankUpdate]:
    """The coordinator's part, by layer."""
    return {layer: collab_edit(factors, setting.prior) for layer, factors in uploads.items()}


def split(indices: Sequence[int], count: int) -> list[Sequence[int]]:
    """Parts of nearly equal size; fewer than ``count`` if there is not enough for all."""
    count = min(count, len(indices))
    edges = [len(indices) * number // count for number in range(count + 1)]
    return [indices[start:end] for start, end in pairwise(edges)]


def printed(name: str, stages: Sequence[str], rows: Iterable[Row]) -> Table:
    """Print rows as they are measured, sizes down and stages across, and return them."""
    print(f"\n{name:>24}" + "".join(f"{stage:>20}" for stage in stages), flush=True)
    table: Table = {}
    for size, costs in rows:
        print(f"{size:>24}" + "".join(f"{costs[stage]!s:>20}" for stage in stages), flush=True)
        table[size] = costs
    return table


def plot(by_edits: Table, by_parties: Table, party_edits: int, path: Path) -> None:
    """Draw both tables; estimates are hollow.

    Raises:
        SystemExit: when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit('--plot needs matplotlib: pip install "collabedit[plot]"') from None
    figure = Figure(figsize=(13, 4), layout="constrained", dpi=120)
    seconds, memory, parties = figure.subplots(1, 3)
    _draw(seconds, by_edits, STAGES, lambda cost: cost.seconds)
    seconds.set(xlabel="edits", ylabel="seconds", title="Time by edits (hollow: estimated)")
    _draw(memory, by_edits, STAGES, lambda cost: cost.memory and cost.memory / 1e6)
    memory.set(xlabel="edits", ylabel="MB at the peak", title="Memory by edits")
    _draw(parties, by_parties, PARTY_STAGES, lambda cost: cost.seconds)
    parties.set(xlabel="parties", ylabel="seconds", title=f"Time of {party_edits} edits, in all")
    figure.savefig(path)


def _draw(
    axes: Any, table: Table, stages: Sequence[str], value: Callable[[Cost], float | None]
) -> None:
    for stage in stages:
        costs = {size: row[stage] for size, row in table.items() if value(row[stage])}
        line = axes.plot(list(costs), [value(cost) for cost in costs.values()], label=stage)[0]
        for size, cost in costs.items():
            face = line.get_color() if cost.memory is not None else "white"
            axes.plot(size, value(cost), "o", color=line.get_color(), markerfacecolor=face)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(table), [f"{size}" for size in table])
    axes.set_yscale("log")
    axes.legend(fontsize="small")


if __name__ == "__main__":
    main()

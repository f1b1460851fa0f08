"""``collabedit run``, ``summarize`` and ``demo``: reproducible experiments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.options import (
    CovarianceOption,
    DeviceOption,
    DtypeOption,
    HparamsOption,
    ModelOption,
    ScheduleOption,
    SeedOption,
    read_numbers,
)

if TYPE_CHECKING:
    from collabedit.experiments import Run

run_app = typer.Typer(no_args_is_help=True, help="Run an experiment and keep its results.")

ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of all results.")]


@run_app.command("single-round")
def single_round(
    model: ModelOption = "smollm2-135m",
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-D",
            help="worldfacts, multi_counterfact, counterfact, zsre, or a file of records.",
        ),
    ] = "worldfacts",
    clients: Annotated[int, typer.Option("--clients", "-c", help="Number of parties.")] = 10,
    edits_per_client: Annotated[
        str,
        typer.Option("--edits-per-client", "-n", help="One number for all parties, or 4,20,6 ..."),
    ] = "10",
    merge: Annotated[
        str, typer.Option(help="Methods to compare, with commas, in any case; 'all' for all.")
    ] = "CollabEdit",
    schedule: ScheduleOption = "sequential",
    partition: Annotated[
        str, typer.Option(help="'iid', or 'relation': each party gets facts of few kinds.")
    ] = "iid",
    covariance: CovarianceOption = None,
    hparams: HparamsOption = None,
    heldout: Annotated[
        Path | None, typer.Option(help="A text file whose perplexity is measured as well.")
    ] = None,
    generations: Annotated[
        bool,
        typer.Option("--generations", help="Measure fluency and consistency of generated text."),
    ] = False,
    seed: SeedOption = 0,
    dtype: DtypeOption = "float32",
    device: DeviceOption = None,
    results: ResultsOption = Path("results"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew instead of continuing an interrupted run.")
    ] = False,
) -> None:
    """Edit once by many parties, merge by each method, and measure before and after.

    An interrupted run is continued by the same command. Targets are found once for all methods.
    """
    from collabedit.editing import Hyperparameters
    from collabedit.experiments import SingleRoundSettings
    from collabedit.experiments import single_round as run_single_round
    from collabedit.merging import merge_methods
    from collabedit.rounds.config import parse_schedule

    per_client = read_numbers(edits_per_client, "--edits-per-client")
    everything = merge.strip().lower() == "all"
    settings = SingleRoundSettings.checked(
        model=model,
        dataset=dataset,
        clients=clients,
        edits_per_client=per_client if len(per_client) > 1 else per_client[0],
        merge=tuple(m.name for m in merge_methods()) if everything else tuple(merge.split(",")),
        schedule=parse_schedule(schedule),
        partition=partition,
        seed=seed,
        hyperparameters=Hyperparameters.from_file(hparams) if hparams else None,
        covariance=covariance,
        heldout=heldout,
        generations=generations,
        dtype=dtype,
        device=device,
    )
    show_run(run_single_round(settings, results, fresh=fresh))


def show_run(run: Run) -> None:
    """Print a finished run's table and where it lies."""
    from collabedit.experiments import load_summary
    from collabedit.reporting.tables import console, summary_table

    console().print(summary_table(load_summary(run.folder), str(run.folder)))
    print(f"Results: {run.folder}/ (summary.json, params.json, case_<id>.json)")


def summarize(
    runs: Annotated[list[Path], typer.Argument(help="Folders such as results/MEMIT/run_000.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show the results of finished runs: a table, JSON or CSV."""
    import json

    from collabedit.experiments import load_summary
    from collabedit.reporting.tables import console, summary_csv, summary_table

    summaries = {str(run): load_summary(run) for run in runs}
    if as_json:
        print(json.dumps(summaries, indent=2, ensure_ascii=False))
    elif as_csv:
        print(summary_csv(summaries), end="")
    else:
        for run, summary in summaries.items():
            console().print(summary_table(summary, run))


def demo(
    results: ResultsOption = Path("results"),
    seed: SeedOption = 0,
) -> None:
    """Show the main job on a real model: four parties, eight facts each, five ways to merge.

    Takes a few minutes on two cores, and nothing but this package.
    """
    from collabedit.experiments.demo import run_demo

    run_demo(results, seed)

"""``collabedit tune``: layers and settings for a new model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.defaults import default_of
from collabedit.cli.options import (
    CovarianceOption,
    DeviceOption,
    DtypeOption,
    EditorOption,
    HparamsOption,
    MemoryOption,
    ScheduleOption,
    SeedOption,
    TrustOption,
    read_bytes,
)

if TYPE_CHECKING:
    from collabedit.experiments import Run
    from collabedit.reporting.results import TuneResult


def tune(
    model: Annotated[
        str, typer.Argument(help="A built-in name, a directory, a .gguf file, or a Hub id.")
    ],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-D",
            help="worldfacts, multi_counterfact, counterfact, or a file of such records; don't "
            "use the records that you will evaluate on.",
        ),
    ] = default_of("dataset", "TuneSettings"),
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Also write the preset here, for --hparams."),
    ] = None,
    trials: Annotated[
        int,
        typer.Option(
            help="Settings of targets (layers, clamp, steps) to try, each with three weights of "
            "the prior; 0 only traces."
        ),
    ] = default_of("trials", "TuneSettings"),
    records: Annotated[
        int, typer.Option(help="Records edited and evaluated in each trial; more reduce noise.")
    ] = default_of("records", "TuneSettings"),
    facts: Annotated[int, typer.Option(help="Known facts to trace.")] = default_of(
        "facts", "TuneSettings"
    ),
    draws: Annotated[int, typer.Option(help="Draws of the noise for each fact.")] = default_of(
        "draws", "TuneSettings"
    ),
    editor: EditorOption = default_of("editor", "TuneSettings"),
    schedule: ScheduleOption = default_of("schedule", "TuneSettings"),
    covariance: CovarianceOption = None,
    hparams: HparamsOption = None,
    seed: SeedOption = default_of("seed", "TuneSettings"),
    dtype: DtypeOption = default_of("dtype", "TuneSettings"),
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    memory_budget: MemoryOption = None,
    results: Annotated[Path, typer.Option("--results", help="Folder of all results.")] = Path(
        "results"
    ),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of continuing an interrupted run.")
    ] = False,
) -> None:
    """Choose the layers to edit and the other settings for a model.

    Causal tracing finds the layers whose MLPs recall facts: noise on the subject makes the model
    forget the object, and restoring a layer's state brings it back. The layers with the
    largest effect, the current settings (or those of --hparams) and, at the best layers, other
    clamps and steps are then tried on a few records, each with three values of lambda. The best
    Score wins; the preset is a file for --hparams of all commands.

    Run the same command again to continue a search that was interrupted or killed.
    """
    from collabedit.editors import Hyperparameters
    from collabedit.messages import parse_schedule
    from collabedit.tuning import TuneSettings
    from collabedit.tuning import tune as run_tuning

    settings = TuneSettings.checked(
        model=model,
        dataset=dataset,
        trials=trials,
        records=records,
        facts=facts,
        draws=draws,
        editor=editor,
        schedule=parse_schedule(schedule),
        covariance=covariance,
        hyperparameters=Hyperparameters.from_file(hparams) if hparams else None,
        seed=seed,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        memory_budget=read_bytes(memory_budget),
    )
    show(run_tuning(settings, results, fresh=fresh), model, out)


def show(run: Run, model: str, out: Path | None) -> None:
    """Print and plot the results of tuning, save the preset and say how to use it."""
    from collabedit.cli.run.showing import show_result
    from collabedit.files import write_json
    from collabedit.reporting.results import TuneResult

    result = TuneResult.load(run.folder)
    show_result(result, run.folder, title=f"Tuning of {model}", verdict=_verdict(result))
    if result.preset is not None:
        preset = out or run.folder / "preset.json"
        write_json(preset, result.preset)
        print(f"Use the preset with: collabedit edit --model {model} --hparams {preset} ...")


def _verdict(result: TuneResult) -> str:
    """The search's conclusion, in a sentence or two."""
    if result.preset is None:
        ranges = ", ".join(f"{layers[0]}-{layers[-1]}" for layers in result.ranges)
        return f"Layers to try, by the effect of their MLPs: {ranges}."
    best, trial = next(iter(result.methods.items()))
    row = trial.metrics
    if trial.present:
        return f"The current settings are the best of those tried: {best}."
    sentence = (
        f"Best: {best}; Score {row['score']:.1f}, {row['gain']:.1f} above the current settings, "
        f"with a standard error of {row['gain_error']:.1f}."
    )
    if row["gain"] <= 2 * row["gain_error"]:
        sentence += " That is within the noise of so few records; try more --records."
    return sentence

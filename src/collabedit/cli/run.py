"""``collabedit run``, ``summarize`` and ``demo``: reproducible experiments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from collabedit.cli.options import (
    CovarianceOption,
    DeviceOption,
    DtypeOption,
    EditorOption,
    HparamsOption,
    MemoryOption,
    ModelOption,
    ScheduleOption,
    SeedOption,
    TrustOption,
    WorkersOption,
    read_bytes,
    read_decimals,
    read_numbers,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from collabedit.experiments import Run
    from collabedit.reporting.results import RunResult

run_app = typer.Typer(no_args_is_help=True, help="Run an experiment and keep its results.")

ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of all results.")]
BetaOption = Annotated[
    str | None,
    typer.Option(
        help="Weight of earlier rounds' keys in the prior (the dynamic covariance); 0 is the "
        "static one; several with commas, such as 0,1,10, are compared. By default the editor's "
        "own (10; AlphaEdit 1), which 'forgetting' compares with 0."
    ),
]


def common_settings(
    model: ModelOption = "smollm2-135m",
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-D",
            help="worldfacts, multi_counterfact, counterfact, zsre, or a file of records.",
        ),
    ] = "worldfacts",
    parties: Annotated[int, typer.Option("--parties", "-p", help="Number of parties.")] = 4,
    edits_per_party: Annotated[
        str,
        typer.Option("--edits-per-party", "-n", help="One number for all parties, or 4,20,6 ..."),
    ] = "8",
    limit: Annotated[
        int | None, typer.Option(help="Use only the first so many records of the data set.")
    ] = None,
    merge: Annotated[
        str, typer.Option(help="Methods to compare, with commas, in any case; 'all' for all.")
    ] = "CollabEdit,GLOBAL,SA,TA,TIES",
    editor: EditorOption = "MEMIT",
    schedule: ScheduleOption = "layerwise",
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
        typer.Option(
            "--generations",
            help="Read what the model writes for all records, and measure the fluency and "
            "consistency of longer texts.",
        ),
    ] = False,
    answers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Records, chosen by the seed, for which the model is asked in several forms and "
            "its answers are read (docs/evaluation.md); 0 for none.",
        ),
    ] = 16,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Address of an OpenAI-compatible server that grades the answers, such as "
            "http://localhost:8000/v1. It sees the records and the answers."
        ),
    ] = None,
    judge_model: Annotated[
        str, typer.Option("--judge-model", help="The model's name on that server.")
    ] = "default",
    seed: SeedOption = 0,
    dtype: DtypeOption = "float32",
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    memory_budget: MemoryOption = None,
) -> dict[str, Any]:
    """What all studies can be told, as the fields of their settings."""
    from collabedit.editors import Hyperparameters
    from collabedit.merging import merge_methods
    from collabedit.messages import parse_schedule

    per_party = read_numbers(edits_per_party, "--edits-per-party")
    everything = merge.strip().lower() == "all"
    return {
        "model": model,
        "dataset": dataset,
        "parties": parties,
        "edits_per_party": per_party if len(per_party) > 1 else per_party[0],
        "limit": limit,
        "merge": tuple(m.name for m in merge_methods()) if everything else tuple(merge.split(",")),
        "editor": editor,
        "schedule": parse_schedule(schedule),
        "partition": partition,
        "covariance": covariance,
        "hyperparameters": Hyperparameters.from_file(hparams) if hparams else None,
        "heldout": heldout,
        "answers": answers,
        "generations": generations,
        "judge": judge,
        "judge_model": judge_model,
        "seed": seed,
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
        "memory_budget": read_bytes(memory_budget),
    }


def _study(
    name: str, *, counted: bool = False, without: tuple[str, ...] = (), **defaults: Any
) -> Callable[[Callable[..., Run]], Callable[..., None]]:
    """Register a study: its own options before the common ones, whose defaults may differ.

    Some of the common ones can be left out. Stages are ``counted`` where they follow from the
    options. The decorated function gets the results folder,
    ``fresh``, the workers, the common settings and its own options.
    """

    def register(study: Callable[..., Run]) -> Callable[..., None]:
        common = [p for p in _parameters(common_settings, defaults) if p.name not in without]
        own = [p for p in _parameters(study, {}) if p.name not in _GIVEN]
        last = [
            inspect.Parameter("results", _KEYWORD, default=Path("results"), annotation=_RESULTS),
            inspect.Parameter("fresh", _KEYWORD, default=False, annotation=_FRESH),
            inspect.Parameter("workers", _KEYWORD, default=None, annotation=WorkersOption),
        ]

        def command(results: Path, fresh: bool, workers: str | None, **values: Any) -> None:
            from collabedit.progress import plan
            from collabedit.progress.plans import study_stages
            from collabedit.workers import open_workers

            settings = common_settings(**{p.name: values.pop(p.name) for p in common})
            for left_out in without:
                del settings[left_out]
            stages = study_stages(
                len(settings["merge"]),
                rounds=values.get("rounds", 1),
                generations=settings["generations"],
                heldout=settings["heldout"] is not None,
            )
            with open_workers(workers) as executor, plan(stages if counted else ()):
                finished = study(results, fresh, executor, settings, **values)
            show_run(finished)

        command.__doc__ = study.__doc__
        command.__signature__ = inspect.Signature([*own, *common, *last])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*own, *common, *last)}
        run_app.command(name)(command)
        return command

    return register


#: What studies are given besides their own options.
_GIVEN = ("results", "fresh", "executor", "common")
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_RESULTS = ResultsOption
_FRESH = Annotated[
    bool, typer.Option("--fresh", help="Begin anew instead of continuing an interrupted run.")
]


def _parameters(function: Callable[..., Any], defaults: dict[str, Any]) -> list[inspect.Parameter]:
    names = globals() | {"Run": Any, "Executor": Any}
    hints = get_type_hints(function, names, include_extras=True)
    return [
        parameter.replace(
            kind=_KEYWORD,
            annotation=hints[parameter.name],
            default=defaults.get(parameter.name, parameter.default),
        )
        for parameter in inspect.signature(function).parameters.values()
    ]


@_study("single-round", counted=True)
def single_round(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    secure_aggregation: Annotated[
        bool,
        typer.Option(
            "--secure-aggregation",
            help="Merge by masked sums, as parties that hide from the coordinator do "
            "(docs/explanation/privacy.md); with --merge CollabEdit,GLOBAL.",
        ),
    ] = False,
) -> Run:
    """Edit once by many parties, merge by each method, and measure before and after.

    An interrupted run is continued by the same command. Targets are found once for all methods.
    """
    from collabedit.experiments import SingleRoundSettings, single_round

    return single_round(
        SingleRoundSettings.checked(**common, secure_aggregation=secure_aggregation),
        results,
        fresh=fresh,
        executor=executor,
    )


@_study("editors", without=("editor", "schedule"), merge="GLOBAL,CollabEdit,SA,TA,TIES")
def editors(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    editors: Annotated[
        str,
        typer.Option(
            "--editors",
            "-E",
            help="Editors to compare, with commas, in any case: MEMIT, PMET, EMMET, ROME, "
            "AlphaEdit, UltraEdit, FT-L, LocFT-BF; or all.",
        ),
    ] = "all",
    schedules: Annotated[
        str, typer.Option(help="How residuals reach the layers: layerwise, one-shot, with commas.")
    ] = "layerwise,one-shot",
) -> Run:
    """Compare editors: each in each schedule, merged by each method, from the same edits.

    Each is a single round in a folder below the run's; editors of one layer are measured once,
    since the schedule makes no difference to them. An interrupted run, even killed, is continued by
    the same command.
    """
    from collabedit.editors import editors as all_editors
    from collabedit.experiments import EditorsSettings, compare_editors
    from collabedit.messages import parse_schedule

    asked = tuple(editors.split(","))
    everything = editors.strip().lower() == "all"
    settings = EditorsSettings.checked(
        **common,
        editors=tuple(editor.name for editor in all_editors()) if everything else asked,
        schedules=tuple(parse_schedule(name) for name in schedules.split(",")),
    )
    return compare_editors(settings, results, fresh=fresh, executor=executor)


@_study("multi-round", counted=True)
def multi_round(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    rounds: Annotated[int, typer.Option("--rounds", "-r", help="Number of rounds.")] = 5,
    beta: BetaOption = None,
) -> Run:
    """Edit in several rounds; after each, measure the edits of all rounds so far.

    Every method goes its own way: targets are found anew on the model that its earlier rounds
    left. A killed run continues from its last finished round.
    """
    from collabedit.experiments import MultiRoundSettings, multi_round

    betas = None if beta is None else read_decimals(beta, "--beta")
    settings = MultiRoundSettings.checked(**common, rounds=rounds, beta=betas)
    return multi_round(settings, results, fresh=fresh, executor=executor)


@_study("forgetting", merge="CollabEdit")
def forgetting(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    further: Annotated[int, typer.Option(help="Edits made after the target set.")] = 40,
    batch: Annotated[int, typer.Option(help="How many of them at a time.")] = 1,
    beta: BetaOption = None,
    measure_every: Annotated[
        int, typer.Option(help="Batches between two measurements of the target set.")
    ] = 4,
) -> Run:
    """Edit a target set, then further edits one at a time, and watch the target set fade.

    Compares the static covariance (beta 0) with the dynamic one.
    """
    from collabedit.experiments import ForgettingSettings, forgetting

    settings = ForgettingSettings.checked(
        **common,
        further=further,
        batch=batch,
        beta=None if beta is None else read_decimals(beta, "--beta"),
        measure_every=measure_every,
    )
    return forgetting(settings, results, fresh=fresh, executor=executor)


@_study("overlap", edits_per_party="10", merge="CollabEdit,TA")
def overlap(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    rounds: Annotated[int, typer.Option("--rounds", "-r", help="Rounds of the same edits.")] = 5,
    copies: Annotated[
        str, typer.Option(help="Numbers of parties with the same edits in one round.")
    ] = "1,2,4,8",
    skip_known: Annotated[
        float,
        typer.Option(help="Parties skip what the model says with this probability per token."),
    ] = 0.5,
    beta: Annotated[float, typer.Option(help="Weight of earlier rounds' keys in the prior.")] = 0.0,
) -> Run:
    """Give all parties the same edits, in one round and over several.

    Shows how the residuals shrink over rounds, what copies of an edit do to the update of each
    method of --merge, and what it saves when parties skip what the model already knows.
    """
    from collabedit.experiments import OverlapSettings, overlap

    settings = OverlapSettings.checked(
        **common,
        rounds=rounds,
        copies=read_numbers(copies, "--copies"),
        skip_known=skip_known,
        beta=beta,
    )
    return overlap(settings, results, fresh=fresh, executor=executor)


@_study("conflict", merge="CollabEdit")
def conflict(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    mode: Annotated[
        str,
        typer.Option(
            help="whether-conflict (edit A, measure B), performance-a (A, A), performance-b "
            "(A and B, A), performance-a+b (A and B, B), single-b (B, B); several with commas, or "
            "all."
        ),
    ] = "all",
    conflicts: Annotated[
        str | None,
        typer.Option(help="A file of B: the same questions with other answers; made if not given."),
    ] = None,
) -> Run:
    """Let other parties give other answers (B) to the same questions (A).

    A is what --parties and --edits-per-party give; as many other parties hold B.
    """
    from collabedit.experiments import MODES, ConflictSettings, conflict

    asked = tuple(name.strip() for name in mode.lower().split(","))
    names = tuple(MODES) if asked == ("all",) else asked
    settings = ConflictSettings.checked(**common, conflicts=conflicts, modes=names)
    return conflict(settings, results, fresh=fresh, executor=executor)


@_study("augmentation", merge="CollabEdit")
def augmentation(
    results: Path,
    fresh: bool,
    executor: Executor | None,
    common: dict[str, Any],
    wordings: Annotated[
        Path | None,
        typer.Option(help="JSON of other prompts by relation id, for round-edit records."),
    ] = None,
    objects: Annotated[
        bool, typer.Option(help="Augment by the further true objects of round-edit records.")
    ] = True,
    prompts: Annotated[bool, typer.Option(help="Augment by other wordings of the prompt.")] = True,
    beta: Annotated[float, typer.Option(help="Weight of earlier rounds' keys in the prior.")] = 0.0,
) -> Run:
    """Resolve conflicts by augmentation: the preferred answer, edited in many forms.

    Three rounds: an edit; its reversal beside a conflicting edit by as many other parties; and the
    preferred answer with further true objects and in other words. --dataset takes round-edit
    records or any CounterFact records.
    """
    from collabedit.experiments import AugmentationSettings, augmentation

    settings = AugmentationSettings.checked(
        **common,
        wordings=wordings,
        augment_objects=objects,
        augment_prompts=prompts,
        beta=beta,
    )
    return augmentation(settings, results, fresh=fresh, executor=executor)


def show_run(run: Run) -> None:
    """Print a finished run's tables, plot it and say where it lies."""
    from collabedit.reporting.results import RunResult

    show_result(RunResult.load(run.folder), run.folder, title=str(run.folder))


def show_result(result: RunResult, folder: Path, *, title: str, verdict: str = "") -> None:
    """Print a result's tables, plot it and say where it lies."""
    from collabedit.reporting.plots import save_plot
    from collabedit.reporting.tables import console, tables_of

    for table in tables_of(result, title):
        console().print(table.rich())
    plot = save_plot(result, folder / "plot.png")
    if verdict:
        print(verdict)
    files = ["summary.json", "params.json", *result.files, *(["plot.png"] if plot else [])]
    print(f"Results: {folder}/ ({', '.join(files)})")


def summarize(
    runs: Annotated[list[Path], typer.Argument(help="Folders such as results/MEMIT/run_000.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show the results of finished runs: tables, JSON or CSV."""
    import json

    from collabedit.reporting.results import RunResult
    from collabedit.reporting.tables import console, results_csv, tables_of

    results = {str(run): RunResult.load(run) for run in runs}
    if as_json:
        summaries = {run: result.summary() for run, result in results.items()}
        print(json.dumps(summaries, indent=2, ensure_ascii=False))
    elif as_csv:
        print(results_csv(results), end="")
    else:
        for run, result in results.items():
            for table in tables_of(result, run):
                console().print(table.rich())


def demo(
    results: ResultsOption = Path("results"),
    seed: SeedOption = 0,
) -> None:
    """Show the main job on a real model: four parties, eight facts each, five ways to merge.

    Takes a few minutes on two cores, and nothing but this package.
    """
    from collabedit.experiments.demo import run_demo

    run_demo(results, seed)

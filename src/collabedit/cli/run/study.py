"""What the studies' commands share: their options, and how they run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from collabedit.cli.defaults import default_of
from collabedit.cli.options import (
    AfterMergeOption,
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
    own_betas,
    read_bytes,
    read_numbers,
    read_steps,
)
from collabedit.cli.run.showing import ResultsOption, show_run

if TYPE_CHECKING:
    from collabedit.experiments import Run

__all__ = ["BetaOption", "study"]

BetaOption = Annotated[
    str | None,
    typer.Option(
        help="Weight of earlier rounds' keys in the prior (the dynamic covariance); 0 is the "
        "static one; several, such as 0,1,10, are compared. By default the editor's "
        f"own ({own_betas()}), which 'forgetting' compares with 0."
    ),
]


def common_settings(
    model: ModelOption,
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-D",
            help="worldfacts, multi_counterfact, counterfact, zsre, or a file of records.",
        ),
    ],
    parties: Annotated[int, typer.Option("--parties", "-p", help="Number of parties.")],
    edits_per_party: Annotated[
        str,
        typer.Option(
            "--edits-per-party",
            "-n",
            help="One number for all parties, or one for each, such as 4,20,6.",
        ),
    ],
    shared: Annotated[
        int, typer.Option(min=0, help="How many of each party's edits all parties share.")
    ],
    limit: Annotated[
        int | None, typer.Option(help="Use only this many records from the start of the data set.")
    ],
    merge: Annotated[
        str, typer.Option(help="Methods to compare, comma-separated, case-insensitive; or 'all'.")
    ],
    after_merge: AfterMergeOption,
    editor: EditorOption,
    schedule: ScheduleOption,
    partition: Annotated[
        str, typer.Option(help="'iid', or 'relation': each party gets facts of few kinds.")
    ],
    covariance: CovarianceOption,
    hyperparameters: HparamsOption,
    heldout: Annotated[Path | None, typer.Option(help="A text file to measure perplexity on.")],
    generations: Annotated[
        bool,
        typer.Option(
            "--generations",
            help="Check what the model writes for all records, and also measure the fluency and "
            "consistency of longer texts.",
        ),
    ],
    answers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of records, chosen by the seed, for which the model's answers to several "
            "forms are checked (docs/reference/evaluation.md); 0 for none.",
        ),
    ],
    conversations: Annotated[
        bool,
        typer.Option(
            "--conversations",
            help="Edit for the model's chat template as well, as 'collabedit edit' does; by "
            "default, edit as in the papers.",
        ),
    ],
    judge: Annotated[
        str | None,
        typer.Option(
            help="Address of an OpenAI-compatible server that grades the answers, such as "
            "http://localhost:8000/v1. It sees the records and the answers."
        ),
    ],
    judge_model: Annotated[
        str, typer.Option("--judge-model", help="The model's name on that server.")
    ],
    seed: SeedOption,
    dtype: DtypeOption,
    device: DeviceOption,
    trust_remote_code: TrustOption,
    memory_budget: MemoryOption,
) -> dict[str, Any]:
    """Options of all studies, as fields of their settings, which define the defaults."""
    from collabedit.editors import Hyperparameters
    from collabedit.merging import merge_methods
    from collabedit.messages import parse_schedule

    per_party = read_numbers(edits_per_party, "--edits-per-party")
    everything = merge.strip().lower() == "all"
    asked = {
        "model": model,
        "dataset": dataset,
        "parties": parties,
        "edits_per_party": per_party if len(per_party) > 1 else per_party[0],
        "shared": shared,
        "limit": limit,
        "merge": tuple(m.name for m in merge_methods()) if everything else tuple(merge.split(",")),
        "after_merge": read_steps(after_merge),
        "editor": editor,
        "schedule": None if schedule is None else parse_schedule(schedule),
        "partition": partition,
        "covariance": covariance,
        "hyperparameters": Hyperparameters.from_file(hyperparameters) if hyperparameters else None,
        "heldout": heldout,
        "answers": answers,
        "conversations": conversations,
        "generations": generations,
        "judge": judge,
        "judge_model": judge_model,
        "seed": seed,
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
        "memory_budget": read_bytes(memory_budget),
    }
    return {name: value for name, value in asked.items() if value is not None}


def study(
    name: str, settings: str, *, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., Run]], Callable[..., None]]:
    """Turn a study into a command, whose own options come before the common ones.

    The decorated function gets the results folder, ``fresh``, the workers, the common settings and
    its own options. Options have the names and defaults of the settings' fields.

    Args:
        name: name of the command.
        settings: name of the settings' class in :mod:`collabedit.settings`.
        without: common options that it does not have.
    """

    def register(function: Callable[..., Run]) -> Callable[..., None]:
        common = [p for p in _parameters(common_settings, settings) if p.name not in without]
        own = [p for p in _parameters(function, settings) if p.name not in _GIVEN]
        last = [
            inspect.Parameter(
                "results", _KEYWORD, default=Path("results"), annotation=ResultsOption
            ),
            inspect.Parameter("fresh", _KEYWORD, default=False, annotation=_FRESH),
            inspect.Parameter("workers", _KEYWORD, default=None, annotation=WorkersOption),
        ]

        def command(results: Path, fresh: bool, workers: str | None, **values: Any) -> None:
            from collabedit.workers import open_workers

            given = {p.name: values.pop(p.name) for p in common}
            left_out: dict[str, Any] = dict.fromkeys(without)
            asked = common_settings(**given, **left_out)
            with open_workers(workers) as executor:
                finished = function(results, fresh, executor, asked, **values)
            show_run(finished)

        command.__doc__ = function.__doc__
        command.__signature__ = inspect.Signature([*own, *common, *last])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*own, *common, *last)}
        command.__name__ = name
        return command

    return register


#: Arguments that studies get besides their own options.
_GIVEN = ("results", "fresh", "executor", "common")
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_FRESH = Annotated[
    bool, typer.Option("--fresh", help="Start over instead of continuing an interrupted run.")
]


def _parameters(function: Callable[..., Any], settings: str) -> list[inspect.Parameter]:
    """A function's parameters as options; optional ones are left to the settings."""
    names = {"Run": Any, "Executor": Any}  # only type checkers import them
    hints = get_type_hints(function, localns=names, include_extras=True)
    return [
        inspect.Parameter(
            name,
            _KEYWORD,
            annotation=hints[name],
            default=None if _may_be_absent(hints[name]) else default_of(name, settings),
        )
        for name in inspect.signature(function).parameters
    ]


def _may_be_absent(annotation: Any) -> bool:
    kind, *_ = get_args(annotation) or (annotation,)
    return type(None) in get_args(kind)

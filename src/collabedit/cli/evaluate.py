"""``collabedit evaluate``: side effects of edits on tasks of the lm-evaluation-harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.defaults import default_of
from collabedit.cli.options import DeviceOption, DtypeOption, TrustOption, read_names

if TYPE_CHECKING:
    from collabedit.evaluation.downstream import TaskScores


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A built-in name, a directory, a .gguf file, or a Hub id.")
    ],
    delta: Annotated[
        Path | None, typer.Option("--delta", help="Also evaluate the model with this delta.")
    ] = None,
    tasks: Annotated[
        str,
        typer.Option(
            help="Comma-separated: capitals, opposites, everyday, which work offline; .jsonl files "
            "of 'query', 'choices' and 'gold'; or tasks of the lm-evaluation-harness, which "
            "downloads their data."
        ),
    ] = "capitals,opposites,everyday",
    include: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A folder of additional tasks (YAML)."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of items per task; all by default.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of items at a time.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dtype: DtypeOption = default_of("dtype"),
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Evaluate a model on downstream tasks; with a delta, edited and unedited side by side.

    Needs the extra lm-eval.
    """
    from collabedit.evaluation.downstream import check_tasks, downstream
    from collabedit.messages import Delta
    from collabedit.models import load_model
    from collabedit.parties import check_delta_model
    from collabedit.reporting.table import console

    names = read_names(tasks)
    check_tasks(names, include)
    change = None if delta is None else Delta.load(delta)
    if change is not None:
        change.require_complete()
    loaded = load_model(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    if change is not None:
        check_delta_model(loaded, change)

    def measured() -> TaskScores:
        return downstream(loaded, names, include=include, limit=limit, batch_size=batch_size)

    scores = {"unedited" if change else model: measured()}
    if change is not None:
        with loaded.edited(change.changes):
            scores["edited"] = measured()
    if as_json:
        print(json.dumps(scores, indent=2))
    else:
        from collabedit.reporting.outcome_tables import task_table

        console().print(task_table(scores).rich())

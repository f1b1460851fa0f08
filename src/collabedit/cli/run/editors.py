"""``collabedit run editors``: editors side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collabedit.cli.run.study import study

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from collabedit.experiments import Run

__all__ = ["editors"]


@study("editors", "EditorsSettings", without=("editor", "schedule"))
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
            help="Editors to compare, comma-separated, case-insensitive; or 'all'.",
        ),
    ],
    schedules: Annotated[
        str, typer.Option(help="Schedules, comma-separated: layerwise, one-shot.")
    ],
) -> Run:
    """Compare editors on the same edits: each editor in each schedule, merged by each method.

    Each is a single round in a subfolder of the run's; editors of one layer run only once, since
    the schedule makes no difference to them. Run the same command again to continue a run that was
    interrupted or killed.
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

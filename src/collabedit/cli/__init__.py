"""The command line: one small file per verb, heavy imports only inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from collabedit.cli import doctor, federation, models, requests, round, run, stats
from collabedit.cli.apply import apply
from collabedit.cli.ask import ask
from collabedit.cli.audit import audit
from collabedit.cli.contribute import contribute
from collabedit.cli.demo import demo
from collabedit.cli.detect import detect
from collabedit.cli.edit import edit
from collabedit.cli.evaluate import evaluate
from collabedit.cli.export import export, revert
from collabedit.cli.group import CommandGroup
from collabedit.cli.merge import merge
from collabedit.cli.report import report
from collabedit.cli.summarize import summarize
from collabedit.cli.threads import limit_threads
from collabedit.cli.tune import tune
from collabedit.cli.ui import ui
from collabedit.cli.withdraw import withdraw
from collabedit.errors import CollabEditError

__all__ = ["app", "main"]

app = typer.Typer(
    name="collabedit",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "Correct facts in a language model, on your own or together with other parties.\n\n"
        "Several parties each edit the same open model. Merging their edits loses nothing, and the "
        "text of a request never leaves its party. docs/explanation/privacy.md says what the "
        "numbers reveal, and how to hide whose they are. "
        "Start with [bold]collabedit demo[/bold]."
    ),
)
app.add_typer(models.app, name="models")
app.add_typer(stats.app, name="stats")
app.add_typer(requests.app, name="requests")
app.command("tune")(tune)
app.command("demo")(demo)
app.command("doctor")(doctor.doctor)
app.command("edit")(edit)
app.add_typer(round.app, name="round")
app.command("contribute")(contribute)
app.command("update", hidden=True)(contribute)  # its name in version 0.1
app.command("detect")(detect)
app.command("merge")(merge)
app.command("withdraw")(withdraw)
app.command("audit")(audit)
app.command("apply")(apply)
app.command("ask")(ask)
app.command("evaluate")(evaluate)
app.command("export")(export)
app.command("revert")(revert)
app.add_typer(federation.app, name="federation")
app.add_typer(run.app, name="run")
app.command("summarize")(summarize)
app.command("report")(report)
app.command("ui")(ui)


def _show_version(value: bool) -> None:
    if value:
        from collabedit._version import __version__

        print(f"collabedit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show no progress and no notices, only results.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say more, such as how long each stage took.")
    ] = False,
    log_json: Annotated[
        Path | None,
        typer.Option(
            "--log-json",
            metavar="FILE",
            help="Write stages, counts and times to FILE, one JSON object per line; no text of a "
            "request, no path and no message.",
        ),
    ] = None,
) -> None:
    from collabedit.cli.display import start_display

    start_display(context, quiet=quiet, verbose=verbose, log_json=log_json)


def main() -> None:
    """Run the command line; deliberate errors become one line and exit status 2."""
    limit_threads()
    try:
        app()
    except CollabEditError as error:
        print(f"collabedit: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # before a command began
        print("collabedit: interrupted", file=sys.stderr)
        sys.exit(130)

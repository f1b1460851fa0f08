"""``collabedit stats``: the second moments that protect everything else from an edit."""

from __future__ import annotations

import typer

from collabedit.cli.stats.collect import collect
from collabedit.cli.stats.import_ import import_
from collabedit.cli.stats.show import show

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Collect, show and import covariance files: second moments of the edited weights' inputs "
    "on ordinary text.",
)
app.command("collect")(collect)
app.command("show")(show)
app.command("import")(import_)

"""``collabedit models``: the models that can be edited, and their settings."""

from __future__ import annotations

import typer

from collabedit.cli.models.list_ import list_models
from collabedit.cli.models.pull import pull
from collabedit.cli.models.show import show

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List, inspect and fetch models.")
app.command("list")(list_models)
app.command("pull")(pull)
app.command("show")(show)

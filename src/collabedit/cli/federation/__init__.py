"""``collabedit federation``: rounds between organisations over a network."""

from __future__ import annotations

import typer

from collabedit.cli.federation.demo import demo
from collabedit.cli.federation.detect import detect
from collabedit.cli.federation.init import init
from collabedit.cli.federation.join import join
from collabedit.cli.federation.results import results
from collabedit.cli.federation.run import run
from collabedit.cli.federation.start import start
from collabedit.cli.federation.status import status

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Edit together over a network, with mutual TLS (needs collabedit\\[flare]; "
    "docs/how-to/federation.md).",
)
coordinator = typer.Typer(no_args_is_help=True, help="The coordinator's commands.")
party = typer.Typer(no_args_is_help=True, help="A party's command.")
app.command("init")(init)
app.add_typer(coordinator, name="coordinator")
app.add_typer(party, name="party")
app.command("demo")(demo)
coordinator.command("start")(start)
coordinator.command("status")(status)
coordinator.command("detect")(detect)
coordinator.command("run")(run)
coordinator.command("results")(results)


@party.callback()
def _party() -> None:
    """A party's command."""  # so that typer keeps the name of a single command


party.command("join")(join)

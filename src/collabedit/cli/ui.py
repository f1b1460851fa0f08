"""``collabedit ui``: a page to try editing in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ui(
    results: Annotated[
        Path, typer.Option(help="The folder of results that the Reports tab shows.")
    ] = Path("results"),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 picks a free one.")
    ] = 0,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in your browser.")
    ] = True,
) -> None:
    """Open a page in your browser to edit a model, merge a round, and read reports.

    The page is served on this machine only, at an address with a random token.
    No data leaves the machine. Needs the extra "ui".
    """
    from collabedit.ui.server import serve

    serve(results, port=port, open_browser=open_browser)

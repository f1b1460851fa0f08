"""The page: its tabs, the running job, and their shared state."""

from __future__ import annotations

import html
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fastapi import Query
from fastapi.responses import HTMLResponse
from nicegui import app, ui

from collabedit._version import __version__
from collabedit.errors import CollabEditError
from collabedit.ui.job_panel import JobPanel
from collabedit.ui.logic import Jobs, RoundDesk, Shelf, Workbench
from collabedit.ui.tabs.edit import EditTab
from collabedit.ui.tabs.reports import REPORT_PATH, ReportsTab
from collabedit.ui.tabs.rounds import RoundsTab

__all__ = ["Desk"]

#: Seconds between checks of the running job.
_LOOK = 0.3


@dataclass(frozen=True)
class Desk:
    """State shared by all windows of the page: one user, one model, and one job at a time.

    Attributes:
        jobs: where long work runs.
        bench: a model and its edits.
        rounds: a round by files.
        shelf: finished runs.
        scratch: this process's folder for files that the browser uploads.
    """

    jobs: Jobs
    bench: Workbench
    rounds: RoundDesk
    shelf: Shelf
    scratch: Path

    @classmethod
    def new(cls, results: Path, scratch: Path) -> Desk:
        """A page on which nothing has been done.

        Args:
            results: the folder whose runs are listed.
            scratch: a folder for files that the browser uploads.
        """
        jobs = Jobs()
        return cls(jobs, Workbench(jobs), RoundDesk(jobs), Shelf(results), scratch)

    def close(self) -> None:
        """Stop whatever is running."""
        self.jobs.close()

    def add_routes(self) -> None:
        """Serve reports beside the page."""

        def report(run: list[str] = Query(default=[])) -> HTMLResponse:  # noqa: B008
            try:
                return HTMLResponse(self.shelf.page(run), headers={"cache-control": "no-store"})
            except CollabEditError as error:
                return HTMLResponse(_plain(str(error)), status_code=404)

        app.get(REPORT_PATH)(report)

    def build(self) -> None:
        """Build the page for one window of the browser."""
        ui.add_css(files(__package__).joinpath("style.css").read_text(encoding="utf-8"))
        with ui.element("header").classes("top"):
            ui.html("collabedit", sanitize=False, tag="h1")
            with ui.tabs().props("no-caps inline-label align=left") as tabs:
                names = {key: ui.tab(key, label=key) for key in ("Edit", "Rounds", "Reports")}
        with ui.element("div").classes("page") as main:

            async def refresh() -> None:
                for part in parts:
                    await part.refresh()

            panel = JobPanel(self.jobs, refresh)
            with ui.tab_panels(tabs, value=names["Edit"], animated=False).classes("panels"):
                with ui.tab_panel(names["Edit"]):
                    edit = EditTab(self.bench, self.scratch)
                with ui.tab_panel(names["Rounds"]):

                    def try_it(path: Path) -> None:
                        self.bench.open_delta(path)
                        tabs.set_value("Edit")

                    rounds = RoundsTab(self.rounds, self.scratch, try_it)
                with ui.tab_panel(names["Reports"]):
                    reports = ReportsTab(self.shelf)
            parts: list[EditTab | RoundsTab | ReportsTab] = [edit, rounds, reports]
        with ui.element("footer"):
            ui.html(
                f"collabedit {html.escape(__version__)}. Everything here stays on this machine.",
                sanitize=False,
                tag="p",
            )
        ui.skip_link("Skip to the page", target=main)
        ui.timer(_LOOK, panel.tick)


def _plain(text: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>collabedit</title>'
        f"<p>{html.escape(text)}</p></html>"
    )

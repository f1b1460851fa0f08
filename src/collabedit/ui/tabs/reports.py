"""The Reports tab: finished runs, each with its page, and several side by side."""

from __future__ import annotations

import html
from urllib.parse import urlencode

from nicegui import run, ui

from collabedit.ui.logic import Shelf, ShelfRun
from collabedit.ui.widgets import button, complaints, field, hint, lines, section

__all__ = ["REPORT_PATH", "ReportsTab"]

#: Where reports are served; each run in a report is a ``run`` parameter of the query.
REPORT_PATH = "/report"
_SHOWN = 100


class ReportsTab:
    """The tab, for one window.

    Args:
        shelf: the model behind the tab.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._chosen: list[str] = []
        self._runs: list[ShelfRun] = []
        with section("Reports"):
            hint(
                "Finished runs of 'collabedit run', 'demo' and 'tune'. A report opens in a new "
                "tab; save it from there to keep or share it. It contains the text of the edits."
            )

            async def look() -> None:
                with complaints():
                    shelf.look_in(root.value or "")
                self._chosen.clear()
                await self._look()

            with ui.element("div").classes("line"):
                root = field("Folder of results", str(shelf.root), lambda _: None)
                root.classes("grow").on("keydown.enter", look)
                button("List", look, "main")
            self._list()
        ui.timer(0, self._look, once=True)

    async def refresh(self) -> None:
        """List the runs again."""
        await self._look()

    async def _look(self) -> None:
        runs = await run.io_bound(self._shelf.runs)
        if runs is not None:  # None while the page is closing
            self._runs = runs
            self._list.refresh()

    @ui.refreshable_method
    def _list(self) -> None:
        runs = self._runs
        if not runs:
            hint(f"There is no finished run in {self._shelf.root}.")
            return
        with ui.element("ul").classes("parties"):
            for run_ in runs[:_SHOWN]:
                self._run(run_)
        if len(runs) > _SHOWN:
            hint(f"and {len(runs) - _SHOWN} older ones")
        self._together()

    def _run(self, one: ShelfRun) -> None:
        with ui.element("li").classes("card"):
            with ui.element("div").classes("card-head"):
                ui.label(one.name).classes("strong")
                if not one.fault:
                    _link("Open the report", [one.name], f"Open the report on {one.name}")
            if one.fault:
                lines([one.fault], "bad")
                return
            hint(f"{one.what}; {one.when}")
            if one.scores:
                scores = ", ".join(f"{method} {score:.1f}" for method, score in one.scores)
                hint(f"Score: {scores}")
            ui.checkbox(
                "Compare",
                value=one.name in self._chosen,
                on_change=lambda event: self._choose(one.name, bool(event.value)),
            ).props(f'dense aria-label="Compare {html.escape(one.name)}"')

    def _choose(self, name: str, chosen: bool) -> None:
        if chosen and name not in self._chosen:
            self._chosen.append(name)
        if not chosen and name in self._chosen:
            self._chosen.remove(name)
        self._together.refresh()

    @ui.refreshable_method
    def _together(self) -> None:
        with ui.element("div").classes("buttons").props("role=status"):
            count = len(self._chosen)
            if count > 1:
                _link(f"Open one report on the {count} chosen runs", self._chosen)
            else:
                hint("Choose two or more runs to see them side by side in one report.")


def _link(text: str, runs: list[str], label: str = "") -> None:
    target = f"{REPORT_PATH}?{urlencode({'run': runs}, doseq=True)}"
    link = ui.link(text, target, new_tab=True)
    if label:
        link.props(f'aria-label="{html.escape(label)}"')

"""The Rounds tab: what the parties sent, whose files fit, and the merge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nicegui import run, ui

from collabedit.messages import Delta
from collabedit.ui.logic import RoundDesk, RoundReview, Sent
from collabedit.ui.widgets import (
    button,
    choice,
    complaints,
    field,
    file_button,
    hint,
    lines,
    section,
)

__all__ = ["RoundsTab"]


class RoundsTab:
    """The tab, for one window.

    Args:
        desk: the model behind the tab.
        scratch: a folder for files that the browser uploads.
        try_it: opens a merged delta in the Edit tab.
    """

    def __init__(self, desk: RoundDesk, scratch: Path, try_it: Callable[[Path], None]) -> None:
        self._desk, self._scratch, self._try_it = desk, scratch, try_it
        self._review = RoundReview()
        with section("Round"):
            hint(
                "The coordinator's part of a round by files: read what the parties sent, see whose "
                "files fit, and merge them into one delta. To merge finished deltas, leave the "
                "round and the covariance empty."
            )
            with ui.element("div").classes("grid"):
                for name, label, example in (
                    ("round_file", "Round file", "round.json"),
                    ("covariance", "Covariance file", "covariance.safetensors"),
                    ("delta", "Layerwise rounds: the delta so far", "delta.safetensors"),
                    ("state", "Several rounds: the state between them", "state.safetensors"),
                ):
                    self._path(name, label, example)
            methods = {name: f"{name}: {about}" for name, about in desk.methods().items()}
            chosen = choice("Merge method", methods, desk.method, self._choose)
            chosen.classes("wide")
        with section("Parties"):
            self._import()
            self._parties()
        with section("Merge"):
            self._merge()
        ui.timer(0, self._look, once=True)

    async def refresh(self) -> None:
        """Show the outcome of the last job."""
        self._delta.set_value(self._desk.delta)
        self._merge.refresh()
        await self._look()

    async def _look(self) -> None:
        """Read all files again, in the background, since they may be large."""
        review = await run.io_bound(self._desk.review)
        if review is not None:  # None while the page is closing
            self._review = review
            self._parties.refresh()

    def _path(self, name: str, label: str, example: str) -> None:
        def change(text: str) -> None:
            setattr(self._desk, name, text)

        given = field(label, getattr(self._desk, name), change, example=example)
        given.on("blur", self._look).on("keydown.enter", self._look)
        if name == "delta":
            self._delta = given

    async def _choose(self, method: str) -> None:
        self._desk.method = method
        await self._look()

    def _import(self) -> None:
        async def add() -> None:
            with complaints():
                self._desk.add(path.value or "")
                path.set_value("")
            await self._look()

        async def take(copy: Path, name: str) -> None:
            with complaints():
                self._desk.add(copy)
            await self._look()

        with ui.element("div").classes("line"):
            path = field("Contribution, or a folder of them", "", lambda _: None)
            path.classes("grow").on("keydown.enter", add)
            button("Add", add, "main")
            file_button("Choose files", take, self._scratch, accept=".safetensors", multiple=True)

    @ui.refreshable_method
    def _parties(self) -> None:
        review = self._review
        if review.about:
            lines([review.about], "strong")
        if review.problem:
            lines([review.problem], "bad").props("role=alert")
        self._list(review)
        if review.sent and not review.problem:
            ready = review.hindrance or f"All {len(review.sent)} fit together"
            lines([ready], "warn" if review.hindrance else "good").props("role=status")
        if review.in_common:
            lines([review.in_common])

    def _list(self, review: RoundReview) -> None:
        if not review.sent and not review.absent:
            hint("Nothing has arrived yet.")
            return
        with ui.element("ul").classes("parties"):
            for sent in review.sent:
                self._party(sent)
            for name in review.absent:
                with ui.element("li").classes("card"), ui.element("div").classes("card-head"):
                    ui.label(name).classes("strong")
                    ui.label("still missing").classes("badge warn")

    def _party(self, sent: Sent) -> None:
        with ui.element("li").classes("card"):
            with ui.element("div").classes("card-head"):
                ui.label(sent.name).classes("strong")
                ui.label("does not fit" if sent.fault else "fits").classes(
                    f"badge {'bad' if sent.fault else 'good'}"
                )
                label = f"Remove {sent.path.name}"
                button("Remove", lambda: self._remove(sent.path), "quiet", label=label)
            about = [sent.path.name]
            if sent.edits:
                about.append(f"{sent.edits} edit{'' if sent.edits == 1 else 's'}")
            about.append(f"{sent.size / 1e6:,.2f} MB")
            hint(", ".join(about))
            if sent.fault:
                lines([sent.fault], "bad")

    async def _remove(self, path: Path) -> None:
        self._desk.remove(path)
        await self._look()

    @ui.refreshable_method
    def _merge(self) -> None:
        async def merge() -> None:
            with complaints():  # it reads the files again before it begins
                await run.io_bound(self._desk.merge, out.value or "")

        with ui.element("div").classes("line"):
            out = field("Delta file to write", "delta.safetensors", lambda _: None)
            out.classes("grow")
            button("Merge", merge, "main")
        if self._desk.merged is not None:
            lines(self._desk.news, "good").props("role=status")
            self._offer(*self._desk.merged)

    def _offer(self, path: Path, delta: Delta) -> None:
        def open_it() -> None:
            with complaints():
                self._try_it(path)

        if delta.metadata.complete:
            button("Ask the merged model, and save it in another format", open_it)

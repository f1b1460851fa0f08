"""The Edit tab: a model, edits, their outcomes, questions, and saving."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from nicegui import ui

from collabedit.editors import editors
from collabedit.evaluation.outcomes import Outcome, Took
from collabedit.export import export_formats
from collabedit.messages import Schedule
from collabedit.models import catalogue
from collabedit.ui.logic import Draft, Edited, Note, Review, Said, Workbench
from collabedit.ui.widgets import (
    Cell,
    button,
    choice,
    complaints,
    field,
    file_button,
    hint,
    lines,
    section,
    table,
)

__all__ = ["EditTab"]

_OTHER = "another model"
#: How many records of files, outcomes and answers are listed.
_SHOWN = 30
_VERDICTS = {Took.TOOK: "good", Took.LOST: "bad", Took.NOT: "bad"}
_KINDS = {"reads": "", "repeats": "warn", "incomplete": "", "bad": "bad"}
_PATHS = {
    "delta": "delta.safetensors",
    "lora": "adapter",
    "model": "edited-model",
    "gguf": "edited.gguf",
}


class EditTab:
    """The tab, for one window.

    Args:
        bench: the model behind the tab.
        scratch: a folder for files that the browser uploads.
    """

    def __init__(self, bench: Workbench, scratch: Path) -> None:
        self._bench, self._scratch = bench, scratch
        self._notes: list[ui.label] = []
        with section("Model"):
            self._model()
        with section("Edits"):
            self._rows()
            self._buttons()
            self._files()
        self._results()

    async def refresh(self) -> None:
        """Show the outcome of the last job."""
        self._results.refresh()

    # --- model and settings -----------------------------------------------------------------------

    def _model(self) -> None:
        bench, names = self._bench, catalogue.names()
        options = {name: _described(name) for name in names} | {_OTHER: "Another model …"}
        known = bench.settings.model in names
        chosen = bench.settings.model if known else _OTHER

        def choose(name: str) -> None:
            other.set_visibility(name == _OTHER)
            bench.change(model=other.value if name == _OTHER else name)

        choice("Model", options, chosen, choose).classes("wide")
        other = field(
            "Directory, .gguf file or Hub id",
            "" if known else bench.settings.model,
            lambda text: bench.change(model=text.strip()),
            classes="wide",
        )
        other.set_visibility(not known)
        with ui.expansion("Settings").props("dense").classes("settings"):
            self._settings()

    def _settings(self) -> None:
        bench, settings = self._bench, self._bench.settings
        with ui.element("div").classes("grid"):
            names = {editor.name: editor.name for editor in editors()}
            choice("Editor", names, settings.editor, lambda name: bench.change(editor=name))
            schedules = {schedule.value: schedule.value for schedule in Schedule}
            choice(
                "Schedule",
                schedules,
                settings.schedule,
                lambda name: bench.change(schedule=name),
            )
            ui.number(
                "Weight of ordinary text (lambda); if empty, the preset's",
                value=settings.prior_weight,
                min=0,
                on_change=lambda event: bench.change(prior_weight=event.value or None),
            ).props("outlined stack-label")
            field(
                "Covariance file; if empty, collected once and kept",
                settings.covariance,
                lambda text: bench.change(covariance=text),
            )
        ui.checkbox(
            "Give edits that did not take a second pass",
            value=settings.retry,
            on_change=lambda event: bench.change(retry=event.value),
        )

    # --- edits ------------------------------------------------------------------------------------

    @ui.refreshable_method
    def _rows(self) -> None:
        self._notes = []
        for row, draft in enumerate(self._bench.drafts):
            self._row(row, draft)
        self._check()

    def _row(self, row: int, draft: Draft) -> None:
        def setter(name: str) -> object:
            def change(text: str) -> None:
                setattr(draft, name, text)
                self._check()

            return change

        with ui.element("fieldset").classes("fact"):
            ui.html(f"Edit {row + 1}", sanitize=False, tag="legend")
            examples = ("The capital of {} is", "France", "Lyon") if row == 0 else ("", "", "")
            labels = ("Prompt, with {} for the subject", "Subject", "New object")
            names = ("prompt", "subject", "target")
            with ui.element("div").classes("fields"):
                for name, label, example in zip(names, labels, examples, strict=True):
                    value = getattr(draft, name)
                    field(label, value, setter(name), example=example, classes=name)  # type: ignore[arg-type]
            with ui.element("div").classes("fields"):
                others = "Other subjects that must stay as they are, such as Italy, Spain"
                field(others, draft.others, setter("others"), classes="others")  # type: ignore[arg-type]
                label = f"Remove edit {row + 1}"
                button("Remove", lambda: self._remove(row), "quiet", label=label)
            self._notes.append(ui.label().classes("note").props("role=status"))

    def _remove(self, row: int) -> None:
        del self._bench.drafts[row]
        if not self._bench.drafts:
            self._bench.drafts.append(Draft())
        self._rows.refresh()

    def _add(self) -> None:
        self._bench.drafts.append(Draft())
        self._rows.refresh()

    def _check(self) -> None:
        """Show how each row reads, and what it has in common with others."""
        review = self._bench.review()
        for row, label in enumerate(self._notes):
            note = review.notes.get(row, Note("incomplete", ""))
            label.set_text(note.text)
            label.classes(replace=f"note {_KINDS[note.kind]}")
        self._announce(review)

    def _announce(self, review: Review) -> None:
        if hasattr(self, "_ready"):
            count = len(review.records)
            ready = f"{count} edit{'' if count == 1 else 's'} ready"
            self._ready.set_text(review.problem or ready)

    def _buttons(self) -> None:
        with ui.element("div").classes("buttons"):
            button("Add an edit", self._add)
            file_button(
                "Load a file of edits",
                self._load,
                self._scratch,
                accept=".json,.jsonl,.csv,.tsv,.txt",
            )

    def _files(self) -> None:
        self._loaded()
        with ui.element("div").classes("buttons"):
            button("Edit the model", self._edit, "main")
            self._ready = ui.label().classes("note").props("role=status")
        self._check()

    def _load(self, path: Path, name: str) -> None:
        with complaints():
            for warning in self._bench.load_file(path, name):
                ui.notify(warning, type="warning")
        self._loaded.refresh()
        self._check()

    @ui.refreshable_method
    def _loaded(self) -> None:
        bench = self._bench
        if not bench.loaded:
            return
        notes = bench.review().loaded
        rows: list[list[Cell]] = []
        # those that need attention first, since there may be too many others to list
        order = sorted(range(len(bench.loaded)), key=lambda index: index not in notes)
        for index in order[:_SHOWN]:
            request = bench.loaded[index].request
            note = notes.get(index)
            state = (note.text, _KINDS[note.kind]) if note else "ready"
            rows.append([str(index + 1), request.text, request.target_new, state])
        hint(f"From files: {', '.join(bench.sources)}")
        table("Edits from files", ["record", "prompt", "new object", "state"], rows)
        if len(order) > _SHOWN:
            hint(f"and {len(order) - _SHOWN} more")
        button("Remove the edits from files", self._clear, "quiet")

    def _clear(self) -> None:
        self._bench.clear_files()
        self._loaded.refresh()
        self._check()

    def _edit(self) -> None:
        with complaints():
            self._bench.edit()

    # --- results ----------------------------------------------------------------------------------

    @ui.refreshable_method
    def _results(self) -> None:
        edited = self._bench.edited
        if edited is not None:
            with section("What the model says now"):
                _outcomes(edited)
        with section("Ask"):
            self._ask(edited)
        if edited is not None:
            with section("Save"):
                self._save(edited)

    def _ask(self, edited: Edited | None) -> None:
        bench = self._bench

        def ask() -> None:
            with complaints():
                bench.ask(question.value or "")

        with ui.element("div").classes("line"):
            question = field("A question, or the beginning of a sentence", "", lambda _: None)
            question.classes("grow").on("keydown.enter", ask)
            button("Ask", ask, "main")
        if edited is None:
            hint("Nothing has been edited yet, so the chosen model answers as it is.")
        if bench.said:
            _answers(bench.said[:_SHOWN])

    def _save(self, edited: Edited) -> None:
        formats = {format_.name: format_.summary for format_ in export_formats()}
        titles = {"delta": "Delta", "lora": "LoRA adapter", "model": "Model folder", "gguf": "GGUF"}

        def choose(name: str) -> None:
            out.set_value(_PATHS.get(name, name))
            about.set_content(html.escape(formats[name]))

        def save() -> None:
            with complaints():
                self._bench.export(to.value, out.value or "", overwrite=bool(replace.value))

        options = {name: titles.get(name, name) for name in (*_PATHS, *formats) if name in formats}
        with ui.element("div").classes("line"):
            to = choice("As", options, "delta", choose)
            out = field("File or directory to write", _PATHS["delta"], lambda _: None)
            out.classes("grow")
            button("Save", save, "main")
        about = hint(formats["delta"])
        replace = ui.checkbox("Replace what an earlier save wrote there")
        job = self._bench.jobs.current
        if job is not None and isinstance(job.result, list) and job.title.startswith("Saving"):
            lines([str(line) for line in job.result], "good")


def _described(name: str) -> str:
    entry = catalogue.entry(name)
    where = "on this machine" if catalogue.is_fetched(name) else f"{entry.megabytes:,} MB to fetch"
    return f"{name} ({entry.licence}, {where})"


def _outcomes(edited: Edited) -> None:
    """Which edits took, with the model's answers before and after; and the neighbours."""
    if edited.outcomes is None:
        about = edited.delta.metadata
        hint(
            f"A delta of {about.edits} edits by {about.parties} parties on {edited.model}, merged "
            f"by {about.method}. Below, you can ask the model before and after."
        )
        return
    lines([str(edited.outcomes)], "strong")
    failed = set(edited.outcomes.failed)
    order = sorted(range(len(edited.outcomes.each)), key=lambda index: index not in failed)
    for index in order[:_SHOWN]:
        _outcome(edited.outcomes.each[index])
    if len(order) > _SHOWN:
        hint(f"and {len(order) - _SHOWN} more")
    if edited.neighbours:
        _neighbours(edited)


def _outcome(outcome: Outcome) -> None:
    with ui.element("article").classes("card"):
        with ui.element("div").classes("card-head"):
            text, target = map(html.escape, (outcome.request.text, outcome.request.target_new))
            ui.html(f"{text} <b>{target}</b>", sanitize=False, tag="h3")
            ui.label(outcome.took.value).classes(f"badge {_VERDICTS[outcome.took]}")
        before, after = outcome.raw
        rows: list[list[Cell]] = [["As a text", before["text"], after["text"]]]
        if outcome.chat is not None:
            before, after = outcome.chat
            rows.append([f"In a chat: {before['prompt']}", before["text"], after["text"]])
        table(f"Answers to {outcome.request.text}", ["asked", "before", "after"], rows)


def _neighbours(edited: Edited) -> None:
    same = sum(neighbour.same for neighbour in edited.neighbours)
    rows: list[list[Cell]] = [
        [one.prompt, one.before, one.after, (one.verdict, "bad" if _lost(one.verdict) else "")]
        for one in edited.neighbours
    ]
    ui.html("Neighbours", sanitize=False, tag="h3")
    hint(f"{same} of {len(rows)} say exactly the same as before.")
    table("What the neighbours say", ["asked", "before", "after", "outcome"], rows)


def _lost(verdict: str) -> bool:
    return verdict == "changed"


def _answers(said: Sequence[Said]) -> None:
    rows: list[list[Cell]] = []
    compared = any(answer.after is not None for answer in said)
    for answer in said:
        form = "in a chat" if answer.chat else "as a text"
        row: list[Cell] = [answer.question, form, answer.before]
        rows.append([*row, answer.after or ""] if compared else row)
    headings = ["asked", "as", *(["before", "after"] if compared else ["answer"])]
    table("Answers", headings, rows)

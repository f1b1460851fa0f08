"""What the tabs share: fields, tables, file choosers, and error messages."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nicegui import events, ui

from collabedit.errors import CollabEditError

__all__ = [
    "Cell",
    "button",
    "choice",
    "complaints",
    "field",
    "file_button",
    "hint",
    "lines",
    "section",
    "table",
]

#: A cell's text, with its classes if it has any.
Cell = str | tuple[str, str]


@contextmanager
def complaints() -> Iterator[None]:
    """Show a deliberate error in a corner of the page."""
    try:
        yield
    except CollabEditError as error:
        close = [{"label": "Close", "color": "white", "noCaps": True}]
        ui.notify(str(error), color="negative", multi_line=True, timeout=0, actions=close)


@contextmanager
def section(title: str) -> Iterator[ui.element]:
    """A part of a tab with a heading."""
    with ui.element("section") as part:
        heading = ui.html(html.escape(title), sanitize=False, tag="h2")
        part.props(f'aria-labelledby="{heading.html_id}"')
        yield part


def hint(text: str) -> ui.html:
    """An explanatory paragraph."""
    return ui.html(html.escape(text), sanitize=False, tag="p").classes("hint")


def lines(texts: Sequence[str], classes: str = "") -> ui.html:
    """One paragraph per text."""
    body = "".join(f"<p>{html.escape(text)}</p>" for text in texts)
    return ui.html(body, sanitize=False).classes(f"lines {classes}")


def field(
    label: str,
    value: str,
    on_change: Callable[[str], Any],
    *,
    example: str = "",
    classes: str = "",
) -> ui.input:
    """A labelled line to type in."""
    given = ui.input(label, value=value, on_change=lambda event: on_change(event.value or ""))
    given.props("outlined stack-label autocomplete=off spellcheck=false")
    if example:
        given.props["placeholder"] = example
    return given.classes(classes)


def table(
    caption: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, titled: bool = False
) -> ui.html:
    """A table that scrolls horizontally if it is too wide.

    Args:
        caption: its title.
        headings: the columns' headings.
        rows: the rows' cells; all texts are escaped.
        titled: show the caption to everyone, not only to screen readers.
    """
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in headings)
    body = "".join(f"<tr>{_cells(row, headings)}</tr>" for row in rows)
    hidden = "" if titled else ' class="unseen"'
    text = (
        f"<table><caption{hidden}>{html.escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    scroll = ui.html(text, sanitize=False).classes("scroll")
    scroll.props("role=region tabindex=0")
    scroll.props["aria-label"] = caption
    return scroll


def _cells(row: Sequence[Cell], headings: Sequence[str]) -> str:
    cells = []
    for column, (cell, heading) in enumerate(zip(row, headings, strict=True)):
        text, classes = cell if isinstance(cell, tuple) else (cell, "")
        shown = html.escape(text) or '<span class="nothing">nothing</span>'
        if column == 0:
            cells.append(f'<th scope="row" class="{classes}">{shown}</th>')
        else:
            # on narrow screens the heading is shown beside the cell
            label = html.escape(heading)
            cells.append(f'<td class="{classes}" data-label="{label}">{shown}</td>')
    return "".join(cells)


def button(
    text: str, on_click: Callable[[], Any] | None = None, kind: str = "plain", *, label: str = ""
) -> ui.button:
    """A button.

    Args:
        text: the text on it.
        on_click: its action.
        kind: ``main`` for a section's main action, ``plain``, or ``quiet``.
        label: for screen readers, if the text alone is not enough.
    """
    made = ui.button(text, on_click=on_click, color=None).props("no-caps unelevated")
    if label:
        made.props["aria-label"] = label
    return made.classes(kind)


def choice(
    label: str, options: Mapping[str, str], value: str, on_change: Callable[[Any], Any]
) -> ui.select:
    """A labelled list to choose from; ``options`` are the texts by value."""
    given = ui.select(
        dict(options), label=label, value=value, on_change=lambda event: on_change(event.value)
    )
    return given.props("outlined stack-label options-dense")


def file_button(
    text: str,
    take: Callable[[Path, str], Awaitable[None] | None],
    folder: Path,
    *,
    accept: str,
    multiple: bool = False,
) -> ui.button:
    """A button that lets the browser choose files, which are copied into this process's folder.

    Args:
        text: the text on the button.
        take: called with the copy of a file, and the file's name.
        folder: where the copies go.
        accept: file name suffixes, comma-separated.
        multiple: whether several files may be chosen.
    """

    async def received(event: events.UploadEventArguments) -> None:
        subfolder = folder / str(sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0)
        subfolder.mkdir(parents=True)
        name = Path(event.file.name).name or "file"
        await event.file.save(subfolder / name)
        done = take(subfolder / name, name)
        if done is not None:
            await done
        chooser.reset()

    chooser = ui.upload(multiple=multiple, auto_upload=True, on_upload=received)
    chooser.props(f'accept="{accept}"').classes("chooser")
    button_ = button(text)
    # in the browser, since only a click there may open its file chooser
    button_.on("click", js_handler=f"() => getElement({chooser.id}).$refs.qRef.pickFiles()")
    return button_

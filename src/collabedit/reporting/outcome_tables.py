"""The table that editing ends with: what came of each edit."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from collabedit.evaluation.outcomes import Outcome, Outcomes, Took
from collabedit.reporting.tables import console

__all__ = ["outcome_table", "print_outcomes", "side_by_side"]

_SHOWN = 24
_STYLES = {Took.TOOK: "green", Took.LOST: "yellow", Took.NOT: "red"}
_LONGEST = 90


def print_outcomes(outcomes: Outcomes) -> None:
    """Print what came of edits, those that failed first where there are many, and a summary."""
    out = console()
    failed = set(outcomes.failed)
    order = sorted(range(len(outcomes.each)), key=lambda place: place not in failed)
    shown = sorted(order[:_SHOWN])
    out.print(outcome_table([outcomes.each[place] for place in shown]))
    if len(order) > _SHOWN:
        out.print(f"... and {len(order) - _SHOWN} more")
    out.print(str(outcomes), highlight=False)


def outcome_table(each: Sequence[Outcome]) -> Table:
    """Edits, what the model wrote before and after, raw and in chat, and what came of them."""
    chat = any(one.chat is not None for one in each)
    table = Table(title="What the model says", title_justify="left", show_lines=True)
    headings = ["edit", "before", "after"]
    headings += ["asked in chat", "before", "after"] if chat else []
    for heading in [*headings, "outcome"]:
        table.add_column(heading, overflow="fold")
    for one in each:
        cells = [f"{one.request.text} -> {one.request.target_new}"]
        cells += [answer["text"] for answer in one.raw]
        if chat:
            asked = [] if one.chat is None else [one.chat[0]["prompt"]]
            cells += asked + [answer["text"] for answer in one.chat or ()]
            cells += [""] * (len(headings) - len(cells))
        style = _STYLES[one.took]
        table.add_row(*map(shortened, cells), f"[{style}]{one.took.value}[/{style}]")
    return table


def side_by_side(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Questions, and what models say to them."""
    table = Table(show_lines=True)
    for heading in columns:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(shortened, row))
    return table


def shortened(text: str) -> str:
    """A text on one line, cut where it is long, that means no markup."""
    line = " ".join(text.split())
    return escape(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…")

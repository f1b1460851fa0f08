"""The page: rendering runs' results with templates and style."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

from collabedit._version import __version__
from collabedit.evaluation import Metric, metrics
from collabedit.reporting.html.command import HPARAMS, command_of
from collabedit.reporting.html.edits import Edit, edits_of
from collabedit.reporting.html.pictures import picture
from collabedit.reporting.html.sections import Part, Samples, parts_of, samples_of, side_by_side
from collabedit.reporting.results import RunResult

__all__ = ["report_page"]

#: Characters of edits' details on a page, over all runs, so that it opens fast on a phone.
_MOST_CHARACTERS = 600_000


@dataclass(frozen=True)
class _Run:
    """One run for the template."""

    name: str
    id: str
    result: RunResult

    @cached_property
    def edits(self) -> list[Edit]:
        return edits_of(self.result.cases, self.name)

    @cached_property
    def samples(self) -> list[Samples]:
        return samples_of(self.edits)

    @cached_property
    def parts(self) -> list[Part]:
        return parts_of(self.result, self.samples, self.edits)

    @property
    def title(self) -> str:
        settings = self.result.settings
        words = [settings.get(key) for key in ("model", "editor", "schedule")]
        return ", ".join([self.result.experiment, *(str(word) for word in words if word)])

    @property
    def settings(self) -> dict[str, str]:
        return {name: _setting(value) for name, value in self.result.settings.items()}

    @property
    def command(self) -> str | None:
        return command_of(self.result)

    @property
    def hparams(self) -> str:
        values = self.result.settings.get("hyperparameters")
        return json.dumps(values, indent=2, ensure_ascii=False) if values else ""

    @property
    def picture(self) -> str | None:
        return picture(self.result, self.id, f"Plot of {self.name}; the tables hold its values")


def report_page(results: Mapping[str, RunResult], *, every_edit: bool = False) -> str:
    """One self-contained page for one run, or for several side by side.

    The same results give the same page. It contains the text of the edits.

    Args:
        results: by the names of runs, loaded with their cases.
        every_edit: show all edits, however large the page becomes; by default as many as fit.

    Raises:
        InputError: when a record's results are damaged.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    runs = [_Run(name, f"run{n}", result) for n, (name, result) in enumerate(results.items(), 1)]
    environment = Environment(
        loader=PackageLoader("collabedit.reporting.html", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = _asset("report.js"), _asset("report.css")
    shown = _fitting(environment, runs, every_edit)
    together = side_by_side({r.name: r.samples for r in runs}, results) if len(runs) > 1 else None
    return environment.get_template("report.html.j2").render(
        runs=runs,
        together=together,
        shown=shown,
        definitions=_definitions(runs),
        hparams_file=HPARAMS,
        style=style,
        script=script,
        policy=_policy(style, script),
        version=__version__,
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Forbids all requests, and all scripts and styles except the page's own."""
    styles, scripts = (f"'sha256-{_sha256(text)}'" for text in (style, script))
    # matplotlib colours its shapes by style attributes
    return (
        f"default-src 'none'; script-src {scripts}; "
        f"style-src-elem {styles}; style-src-attr 'unsafe-inline'"
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _fitting(environment: Any, runs: Sequence[_Run], every_edit: bool) -> dict[str, list[str]]:
    """The edits of each run as HTML; only the first ones if not all fit."""
    template = environment.get_template("edit.html.j2")
    room = _MOST_CHARACTERS // max(1, len(runs))
    shown: dict[str, list[str]] = {}
    for run in runs:
        left, texts = room, shown.setdefault(run.id, [])
        for edit in run.edits:
            text = template.render(edit=edit)
            left -= len(text)
            if left < 0 and not every_edit:
                break
            texts.append(text)
    return shown


def _definitions(runs: Sequence[_Run]) -> list[Metric]:
    """The metrics that at least one of the runs has."""
    present = {key for run in runs for row in run.result.rows() for key in row}
    return [row for row in metrics() if row.key in present]


def _setting(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)

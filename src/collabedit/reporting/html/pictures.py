"""The plots of a run as inline SVG with the page's colours."""

from __future__ import annotations

import io
import re
from html import escape
from importlib.util import find_spec
from typing import Any

from collabedit.reporting.plots import draw
from collabedit.reporting.results import RunResult

__all__ = ["picture"]

#: Stands for the page's text colour, which differs in dark mode.
_INK = "#010203"

#: Distinguishable on white and on black, with a contrast of at least 3 to 1.
_COLOURS = ("#2a7fcf", "#cc6a11", "#2e9158", "#b8559f", "#8c7a10", "#7a7a7a")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))

#: Parts of matplotlib's output that a page does not need.
#: Its style sheet would apply to the whole page.
_SURPLUS = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL
)
_NAMES = re.compile(r'(\bid="|xlink:href="#|url\(#)')
_SIZE = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>')


def picture(result: RunResult, name: str, label: str) -> str | None:
    """Draw a run's result.

    Args:
        result: the result of any study.
        name: prefix of every id, so that pictures can share a page.
        label: description for screen readers.

    Returns:
        An ``<svg>`` element, the same for the same result; ``None`` without matplotlib.
    """
    if find_spec("matplotlib") is None:
        return None
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_style(name)):
        figure = Figure(figsize=(7.5, 4), layout="constrained")
        draw(result, figure)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _within_page(written.getvalue(), name, label)


def _style(name: str) -> dict[Any, Any]:
    from cycler import cycler

    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(ink, _INK),
        "axes.prop_cycle": cycler(color=_COLOURS) + cycler(linestyle=_DASHES),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.family": "sans-serif",
        "font.size": 11,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": name,
    }


def _within_page(svg: str, name: str, label: str) -> str:
    """The bare element, in the page's colours, with unique ids."""
    svg = _NAMES.sub(rf"\g<1>{name}-", _SURPLUS.sub("", svg)).strip()
    size = _SIZE.search(svg)
    box = size.group(1) if size else ""
    opening = f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">'
    return _SIZE.sub(lambda _: opening, svg, count=1).replace(_INK, "currentColor")

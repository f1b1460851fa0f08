"""The plots of a run as SVG that stands within a page and takes its colours from there."""

from __future__ import annotations

import io
import re
from html import escape
from importlib.util import find_spec
from typing import Any

from collabedit.reporting.plots import draw
from collabedit.reporting.results import RunResult

__all__ = ["picture"]

#: Stands for the colour of the page's text, which is another in the dark.
_INK = "#010203"

#: Told apart on white and on black, with a contrast of at least 3 to 1.
_COLOURS = ("#2a7fcf", "#cc6a11", "#2e9158", "#b8559f", "#8c7a10", "#7a7a7a")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))

#: What matplotlib writes before and into the picture that a page has no use for.
#: Its style sheet would be the whole page's.
_SURPLUS = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL
)
_NAMES = re.compile(r'(\bid="|xlink:href="#|url\(#)')
_SIZE = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>')


def picture(result: RunResult, name: str, label: str) -> str | None:
    """Draw a run's result.

    Args:
        result: of any study.
        name: begins every id, so that pictures can share a page.
        label: what it shows, for those who do not see it.

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
    """The element alone, in the page's colours, with ids of its own."""
    svg = _NAMES.sub(rf"\g<1>{name}-", _SURPLUS.sub("", svg)).strip()
    size = _SIZE.search(svg)
    box = size.group(1) if size else ""
    opening = f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">'
    return _SIZE.sub(lambda _: opening, svg, count=1).replace(_INK, "currentColor")

"""Tables of a search for settings: for the terminal and as Markdown, from the same cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collabedit.evaluation import metric
from collabedit.reporting.editor_tables import Cell, Grid

__all__ = ["tuning_grids"]

#: Columns of trials: key, heading, decimals.
_COLUMNS = (
    *((m.key, m.heading, m.decimals) for m in map(metric, ("ES", "PS", "NS", "score"))),
    ("gain", "gain", 1),
    ("gain_error", "+-", 1),
    ("update_norm", "update", 3),
)


def tuning_grids(summary: Mapping[str, Any], title: str) -> list[Grid]:
    """What causal tracing found, and all trials, the best first."""
    grids = [_effects(summary["trace"], title)]
    if summary["methods"]:
        grids.append(_trials(summary))
    return grids


def _effects(trace: Mapping[str, Any], title: str) -> Grid:
    window = trace["window"]
    lines = []
    for layer, effect in enumerate(trace["hidden"]):
        texts = [str(layer), _percent(effect), _percent(trace["hidden_error"][layer])]
        if layer < len(trace["mlp"]):
            texts += [
                f"{layer}-{layer + window - 1}" if window > 1 else str(layer),
                _percent(trace["mlp"][layer]),
                _percent(trace["mlp_error"][layer]),
            ]
        else:
            texts += [""] * 3
        lines.append([Cell(text) for text in texts])
    note = (
        f"Percent, at the subject's last token: {trace['facts']} known facts of "
        f"{trace['examined']} records, {trace['draws']} draws of the noise each. The object's "
        f"probability is {_percent(trace['clean'])}, with noise {_percent(trace['corrupted'])}; "
        "+- is the standard error over facts."
    )
    headings = ["layer", "its state restored", "+-", "layers", "their MLPs restored", "+-"]
    return Grid(f"{title}: average indirect effects", headings, 1, [lines], note)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _trials(summary: Mapping[str, Any]) -> Grid:
    rows = list(summary["methods"].values())
    columns = [column for column in _COLUMNS if column[0] in rows[0]]
    unedited = [Cell(text) for text in ("unedited", "", "", "")]
    lines = [
        [
            Cell(f"{row['layers']} (present)" if row["present"] else row["layers"]),
            Cell(f"{row['weight']:g}"),
            Cell(f"{row['clamp_factor']:g}"),
            Cell(str(row["target_steps"])),
        ]
        for row in rows
    ]
    for key, _, digits in columns:
        value = summary["unedited"].get(key)
        unedited.append(Cell("" if value is None else f"{value:.{digits}f}"))
        for place, (line, row) in enumerate(zip(lines, rows, strict=True)):
            line.append(Cell(f"{row[key]:.{digits}f}", best=key == "score" and place == 0))
    headings = ["layers", "lambda", "clamp", "steps", *(heading for _, heading, _ in columns)]
    note = (
        f"{summary['unedited']['records']} records, the best settings first. gain: of Score over "
        "the present settings, with its standard error (jackknife). update: its norm by that of "
        "the edited weights."
    )
    return Grid("Trials", headings, 1, [[unedited], lines], note)

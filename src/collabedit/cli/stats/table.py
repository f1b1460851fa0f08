"""A covariance as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collabedit.messages import Covariance

__all__ = ["facts", "print_covariance", "rows"]


def facts(covariance: Covariance) -> dict[str, str | int]:
    """Rows for the metadata."""
    return {
        "model": covariance.model,
        "corpus": covariance.corpus,
        "samples": covariance.samples,
        "created": covariance.created,
        "collabedit": covariance.collabedit,
    }


def rows(covariance: Covariance) -> dict[str, dict[str, float | int | None]]:
    """Rows for the weights; ``None`` for infinite or unknown values."""
    import math

    from collabedit.algebra import condition_number
    from collabedit.progress import progress

    table: dict[str, dict[str, float | int | None]] = {}
    moments = covariance.second_moments
    with progress("Checking the matrices", len(moments), "matrices") as bar:
        for name, moment in moments.items():
            blocks = moment if moment.ndim == 3 else moment[None]  # the worst expert counts
            condition = max(map(condition_number, blocks))
            table[name] = {
                "size": moment.shape[-1] * len(blocks),
                "trace": sum(float(block.trace()) for block in blocks),
                "condition": condition if math.isfinite(condition) else None,
                "sampling_error": covariance.sampling_error.get(name),
            }
            bar.advance()
    return table


def print_covariance(covariance: Covariance, path: Path) -> None:
    """Print a covariance as a table."""
    from collabedit.reporting.table import Column, Row, Table, console

    shown: list[Row] = []
    for name, row in rows(covariance).items():
        condition, error = row["condition"], row["sampling_error"]
        shown.append(
            {
                "weight": name,
                "samples": f"{covariance.samples:,}",
                "inputs": f"{row['size']:,}",
                "trace": f"{row['trace']:.4g}",
                "condition": "singular" if condition is None else f"{condition:.1e}",
                "sampling error": "unknown" if error is None else f"{100 * error:.1f} %",
            }
        )
    numbers = ("samples", "inputs", "trace", "condition", "sampling error")
    columns = [Column.name("weight"), *map(Column.number, numbers)]
    out = console()
    for key, value in facts(covariance).items():
        out.print(f"{key}: {value}", highlight=False, markup=False)
    out.print(Table.of("", columns, shown).rich())
    out.print(f"file: {path}", highlight=False, markup=False, soft_wrap=True)

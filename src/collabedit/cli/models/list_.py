"""``collabedit models list``."""

from __future__ import annotations

__all__ = ["list_models"]


def list_models() -> None:
    """List the built-in models, which do not need a model hub."""
    from collabedit.models import catalogue
    from collabedit.reporting.table import Column, Row, Table, console

    rows: list[Row] = []
    for name in catalogue.names():
        model = catalogue.entry(name)
        rows.append(
            {
                "name": name,
                "model": model.title,
                "licence": model.licence,
                "download": f"{model.megabytes:,} MB",
                "in the cache": "yes" if catalogue.is_fetched(name) else "no",
            }
        )
    columns = [
        Column.name("name"),
        Column.words("model"),
        Column.words("licence"),
        Column.number("download"),
        Column.words("in the cache"),
    ]
    console().print(Table.of("", columns, rows).rich())
    console().print("Any decoder model works: a Hub id, a local directory, or a .gguf file.")

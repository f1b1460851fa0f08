"""``collabedit models list``."""

from __future__ import annotations

__all__ = ["list_models"]


def list_models() -> None:
    """List the built-in models, which need no model hub."""
    from rich.table import Table

    from collabedit.models import catalogue
    from collabedit.reporting.tables import console

    table = Table("name", "model", "licence", "download", "in the cache")
    for name in catalogue.names():
        model = catalogue.entry(name)
        cached = "yes" if catalogue.is_fetched(name) else "no"
        table.add_row(name, model.title, model.licence, f"{model.megabytes:,} MB", cached)
    console().print(table)
    console().print("Any decoder model works: a Hub id, a local directory, or a .gguf file.")

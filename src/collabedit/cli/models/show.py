"""``collabedit models show``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from collabedit.cli.defaults import default_of
from collabedit.cli.options import EditorOption, TrustOption

__all__ = ["show"]


def show(
    name: Annotated[str, typer.Argument(help="Built-in name, directory, .gguf file or Hub id.")],
    editor: EditorOption = default_of("editor"),
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the inferred structure of a model and the hyper-parameters that an editor would use."""
    from dataclasses import asdict

    from rich.table import Table

    from collabedit.editors import default_hyperparameters, editors, resolve_editor
    from collabedit.models.loading import load_structure_only
    from collabedit.models.structure import infer_structure
    from collabedit.reporting.tables import console

    rules = resolve_editor(editor)
    structure = infer_structure(load_structure_only(name, trust_remote_code=trust_remote_code))
    preset = default_hyperparameters(name, structure, editor)
    settings = preset.hyperparameters.model_dump(mode="json")
    facts = {
        "model": name,
        "structure": asdict(structure),
        "editor": rules.name,
        "editors": {other.name: other.summary for other in editors()},
        "hyperparameters": settings,
        "hyperparameters_from": preset.source,
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table("part", "value", title=name)
    for key, value in asdict(structure).items():
        table.add_row(key.replace("_", " "), str(value))
    table.add_section()
    for key, value in settings.items():
        table.add_row("edited layers" if key == "layers" else key.replace("_", " "), str(value))
    table.add_row("these come from", preset.source)
    table.add_section()
    for other in editors():
        table.add_row(f"editor {other.name}", other.summary)
    console().print(table)

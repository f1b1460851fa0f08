"""``collabedit models show``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.defaults import default_of
from collabedit.cli.options import EditorOption, TrustOption

if TYPE_CHECKING:
    from collabedit.reporting.table import Row

__all__ = ["show"]


def show(
    name: Annotated[str, typer.Argument(help="Built-in name, directory, .gguf file or Hub id.")],
    editor: EditorOption = default_of("editor"),
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the inferred structure of a model and the hyper-parameters that an editor would use."""
    from dataclasses import asdict

    from collabedit.editors import default_hyperparameters, editors, resolve_editor
    from collabedit.models.loading import load_structure_only
    from collabedit.models.structure import infer_structure
    from collabedit.reporting.table import Column, Table, console

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
    inferred = [_row(key, value) for key, value in asdict(structure).items()]
    layers = settings.pop("layers")
    chosen = [_row(key, value) for key, value in {"edited layers": layers, **settings}.items()]
    chosen.append({"part": "these come from", "value": preset.source})
    known = [{"part": f"editor {other.name}", "value": other.summary} for other in editors()]
    columns = [Column.name("part"), Column.words("value")]
    console().print(Table.of(name, columns, inferred, chosen, known).rich())


def _row(key: str, value: object) -> Row:
    return {"part": key.replace("_", " "), "value": str(value)}

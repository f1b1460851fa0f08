"""``collabedit export``: a delta as LoRA, GGUF, model directory or delta; and ``revert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from collabedit.cli.options import OverwriteOption, TrustOption

PublicOption = Annotated[
    bool, typer.Option("--public", help="Make a new Hub repository public; private by default.")
]


def export(
    delta: Annotated[Path, typer.Argument(help="A complete delta file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file or directory to write.")],
    to: Annotated[
        str | None,
        typer.Option(
            help="lora, gguf, model or delta; by default, what the name of --out implies, or model."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The unedited model, if not the one the delta names."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="lora: maximum rank of the adapter; less than needed loses edits."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="gguf: type of the edited weights, f16 (default) or q8_0."),
    ] = None,
    all_weights: Annotated[
        bool,
        typer.Option(
            "--all-weights", help="gguf: store all matrices in that type, not only the edited ones."
        ),
    ] = False,
    base_gguf: Annotated[
        Path | None,
        typer.Option(help="gguf: the base model's GGUF file, if the delta does not name one."),
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            "-r",
            help="Evaluate the result on these requests, for the model card, which contains none "
            "of their text.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(help="Also upload the result to this Hub repository, OWNER/NAME."),
    ] = None,
    public: PublicOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Export edits as LoRA, GGUF, a model directory, or a delta."""
    from collabedit.export import Base, ExportJob, resolve_format
    from collabedit.export.hub import check_repository, push
    from collabedit.messages import Delta
    from collabedit.requests import load_records

    chosen = resolve_format(to, out)
    given: dict[str, Any] = {
        "rank": rank,
        "precision": precision,
        "all_weights": all_weights or None,
        "base_gguf": base_gguf,
    }
    options = {name: value for name, value in given.items() if value is not None}
    chosen.check_options(options)
    if push_to_hub is not None:
        check_repository(push_to_hub)
    records = load_records(requests) if requests else []
    base = Base.of(Delta.load(delta), model, trust_remote_code=trust_remote_code)
    job = ExportJob(base, out, overwrite, records, trust_remote_code, delta)
    for note in chosen.export(job, options):
        print(note)
    print(f"{out}: {base.delta.metadata.edits} edits as {chosen.name}")
    if push_to_hub is not None:
        print(f"Uploaded to {push(out, push_to_hub, private=not public)}")


def revert(
    model: Annotated[Path, typer.Argument(help="Directory of an edited model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the unedited model.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Undo the edits of a saved model; its weights are restored byte for byte."""
    from collabedit.export import revert_model

    count = revert_model(model, out, overwrite=overwrite)
    print(f"{out}: the unedited model; {count} weights were restored")

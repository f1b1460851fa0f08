"""``collabedit apply``: write a delta into a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collabedit.cli.options import (
    DeviceOption,
    OverwriteOption,
    StrictOption,
    TrustOption,
    require_all_took,
    spread,
)
from collabedit.errors import InputError


def apply(
    delta: Annotated[Path, typer.Argument(help="A complete delta file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the edited model.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The unedited model, if not the one the delta names."),
    ] = None,
    overwrite: OverwriteOption = False,
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            "-r",
            help="Your edits: ask the model about each, and show which took.",
        ),
    ] = None,
    strict: StrictOption = False,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write a delta into the model and save it; plain transformers loads the result.

    With --requests, a table at the end shows the model's answers for your edits, before and after.
    """
    from collabedit.evaluation.outcomes import ask_edits, outcomes
    from collabedit.export import save_edited_model
    from collabedit.export.model_directory import check_output, check_output_directory
    from collabedit.messages import Delta
    from collabedit.models import load_model
    from collabedit.reporting.outcome_tables import print_outcomes
    from collabedit.requests import load_records

    if strict and requests is None:
        raise InputError("--strict needs --requests, the edits to ask for")
    records = [] if requests is None else load_records(requests)
    check_output_directory(out, overwrite=overwrite)
    loaded_delta = Delta.load(delta)
    loaded_delta.require_complete()
    about = loaded_delta.metadata
    loaded = load_model(
        model or about.model, dtype=about.dtype, device=device, trust_remote_code=trust_remote_code
    )
    check_output(out, loaded, overwrite=overwrite)
    before = ask_edits(loaded, records)
    save_edited_model(loaded, loaded_delta, out, overwrite=overwrite, delta_file=delta)
    print(f"{out}: {about.model} with {about.edits} edits, layers {spread(about.layers)}")
    if records:
        results = outcomes(records, before, ask_edits(loaded, records))
        print_outcomes(results)
    else:
        print(f"To see which edits took: collabedit ask {delta} --requests YOUR_EDITS")
    print(f'Load it with: transformers.AutoModelForCausalLM.from_pretrained("{out}")')
    if records:
        require_all_took(results, strict)

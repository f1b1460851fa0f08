"""``collabedit edit``: edit a model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collabedit.cli.options import (
    CovarianceOption,
    DeviceOption,
    DtypeOption,
    EditorOption,
    HparamsOption,
    LambdaOption,
    MemoryOption,
    ModelOption,
    OverwriteOption,
    ScheduleOption,
    SeedOption,
    SkipBadOption,
    TrustOption,
    read_bytes,
    read_covariance,
    read_hyperparameters,
    spread,
)


def edit(
    requests: Annotated[
        Path,
        typer.Option(
            "--requests", "-r", help="Your edits, in any form of the field; - reads stdin."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="A directory for the edited model, a .gguf file, or a .safetensors file for the "
            "delta alone.",
        ),
    ],
    model: ModelOption = "smollm2-135m",
    editor: EditorOption = "MEMIT",
    schedule: ScheduleOption = "layerwise",
    covariance: CovarianceOption = None,
    hparams: HparamsOption = None,
    prior_weight: LambdaOption = None,
    seed: SeedOption = 0,
    dtype: DtypeOption = "float32",
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    memory_budget: MemoryOption = None,
    skip_bad: SkipBadOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Edit a model alone: one party, all in one go."""
    from collabedit.editing import TargetCache
    from collabedit.editors import resolve_editor
    from collabedit.export import save_edited_model
    from collabedit.export.gguf_model import check_gguf, save_gguf
    from collabedit.export.model_directory import check_output, check_output_directory
    from collabedit.files import check_output_file
    from collabedit.merging import resolve_method
    from collabedit.messages import parse_schedule
    from collabedit.models import load_model
    from collabedit.parties import Party, new_round
    from collabedit.progress import plan
    from collabedit.progress.plans import EDIT
    from collabedit.requests import load_records
    from collabedit.rounds import Coordinator, static_priors
    from collabedit.transports import run_in_process

    rules = resolve_editor(editor)
    chosen_schedule = parse_schedule(schedule)
    records = load_records(requests, skip_bad=skip_bad)
    as_delta, as_gguf = out.suffix == ".safetensors", out.suffix == ".gguf"
    if as_delta:
        check_output_file(out)
    elif as_gguf:
        check_gguf(out, model, overwrite=overwrite, trust_remote_code=trust_remote_code)
    else:
        check_output_directory(out, overwrite=overwrite)
    with plan(EDIT):
        loaded = load_model(
            model,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            memory_budget=read_bytes(memory_budget),
        )
        if not (as_delta or as_gguf):
            check_output(out, loaded, overwrite=overwrite)
        config = new_round(
            loaded,
            editor=rules.name,
            schedule=chosen_schedule,
            hyperparameters=read_hyperparameters(loaded, hparams, prior_weight, editor),
            seed=seed,
        )
        party = Party(loaded, [record.request for record in records], config, cache=TargetCache())
        moments = (
            read_covariance(covariance, loaded, config.layers, seed)
            if rules.has_statistics
            else None
        )
        priors = static_priors(config, moments, loaded.memory_budget)
        delta = run_in_process([party], Coordinator(config, priors, resolve_method("GLOBAL")))
    if as_delta:
        delta.save(out)
    elif as_gguf:
        save_gguf(delta, out, model, overwrite=overwrite, trust_remote_code=trust_remote_code)
    else:
        save_edited_model(loaded, delta, out, overwrite=overwrite)
    print(f"{out}: {model} with {len(records)} edits, layers {spread(config.layers)}")

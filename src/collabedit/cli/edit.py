"""``collabedit edit``: edit a model on your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collabedit.cli.defaults import default_of
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
    RetryOption,
    ScheduleOption,
    SeedOption,
    SkipBadOption,
    StrictOption,
    TrustOption,
    WorkersOption,
    read_bytes,
    read_covariance,
    read_hyperparameters,
    require_all_took,
    spread,
)
from collabedit.errors import InputError


def edit(
    requests: Annotated[
        Path,
        typer.Option("--requests", "-r", help="Your edits, in any common format; - reads stdin."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="A directory for the edited model, a .gguf file, or a .safetensors file for only "
            "the delta.",
        ),
    ],
    model: ModelOption = default_of("model"),
    editor: EditorOption = default_of("editor"),
    schedule: ScheduleOption = default_of("schedule"),
    covariance: CovarianceOption = None,
    hparams: HparamsOption = None,
    prior_weight: LambdaOption = None,
    seed: SeedOption = default_of("seed"),
    dtype: DtypeOption = default_of("dtype"),
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    memory_budget: MemoryOption = None,
    skip_bad: SkipBadOption = False,
    overwrite: OverwriteOption = False,
    retry: RetryOption = True,
    ask: Annotated[
        bool, typer.Option(help="Ask about each edit before and after, and show which took.")
    ] = True,
    strict: StrictOption = False,
    workers: WorkersOption = None,
) -> None:
    """Edit a model on your own, in one go.

    A table at the end shows the model's answers for each edit, before and after, to the prompt as
    edited and in a chat: whether the edit took, did not, or lost its subject.
    """
    from collabedit.collaboration import edit_alone, edit_and_ask
    from collabedit.editing import TargetCache
    from collabedit.editors import resolve_editor
    from collabedit.export import Output
    from collabedit.merging import resolve_method
    from collabedit.messages import parse_schedule
    from collabedit.parties import Party, new_round
    from collabedit.reporting.outcome_tables import print_outcomes
    from collabedit.requests import load_records
    from collabedit.rounds import static_priors
    from collabedit.workers import ModelSource, check_workers, open_model_workers

    if strict and not ask:
        raise InputError("--strict needs the answers; remove --no-ask")
    check_workers(workers)
    rules = resolve_editor(editor)
    chosen_schedule = parse_schedule(schedule)
    records = load_records(requests, skip_bad=skip_bad)
    output = Output(out, overwrite=overwrite, trust_remote_code=trust_remote_code)
    output.check(model)
    source = ModelSource(model, dtype, device, read_bytes(memory_budget), trust_remote_code)
    loaded = source.load()
    output.check_room(loaded)
    config = new_round(
        loaded,
        editor=rules.name,
        schedule=chosen_schedule,
        hyperparameters=read_hyperparameters(
            loaded.name, loaded.structure, hparams, editor, prior_weight
        ),
        seed=seed,
    )
    party = Party(loaded, [record.request for record in records], config, cache=TargetCache())
    moments = None
    with open_model_workers(workers, source, loaded) as helpers:
        if helpers is not None and rules.at_once:
            party.prepare(helpers.solve)
        if rules.needs_covariance(config.hyperparameters):
            moments = read_covariance(covariance, loaded, config.layers, seed, helpers)
    results = None
    if ask:
        pooled = resolve_method("GLOBAL")
        delta, results = edit_and_ask(pooled, [party], records, config, moments, retry=retry)
    else:
        delta = edit_alone(party, config, static_priors(config, moments, loaded.memory_budget))
    output.save(loaded, delta)
    print(f"{out}: {model} with {len(records)} edits, layers {spread(config.layers)}")
    if results is not None:
        print_outcomes(results)
        require_all_took(results, strict)

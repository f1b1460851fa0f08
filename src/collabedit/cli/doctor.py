"""``collabedit doctor``: does it fit, and how long will it take?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collabedit.cli.defaults import default_of
from collabedit.cli.options import (
    CovarianceOption,
    DeviceOption,
    DtypeOption,
    EditorOption,
    HparamsOption,
    MemoryOption,
    ScheduleOption,
    TrustOption,
    read_bytes,
    read_hyperparameters,
)

if TYPE_CHECKING:
    from collabedit.planning import Cost, ModelShape, Rates, Trial, Workload
    from collabedit.reporting.table import Table


def doctor(
    model: Annotated[str, typer.Argument(help="Built-in name, directory, .gguf file or Hub id.")],
    edits_per_party: Annotated[
        int, typer.Option("--edits-per-party", "-n", min=1, help="Number of edits of each party.")
    ] = 10,
    parties: Annotated[int, typer.Option("--parties", "-p", min=1, help="Number of parties.")] = 1,
    editor: EditorOption = default_of("editor"),
    schedule: ScheduleOption = default_of("schedule"),
    hparams: HparamsOption = None,
    covariance: CovarianceOption = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of tokens for the covariance; by default, as many as the default "
            "covariance has.",
        ),
    ] = None,
    dtype: DtypeOption = default_of("dtype"),
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    memory_budget: MemoryOption = None,
    trial: Annotated[
        bool,
        typer.Option(
            "--trial/--no-trial",
            help="Run every stage with two edits and 2,048 tokens, and base the times on that. "
            "Otherwise only the model's structure is read, and times follow from the speed of a "
            "matrix product.",
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate the memory and time of an edit, stage by stage, and say whether it fits here.

    Assumes that the edits of all parties are made on this machine, as in 'collabedit run'. Memory
    is the process's peak in each stage. Nothing is edited.
    """
    import torch

    from collabedit.covariance import SelfCorpus
    from collabedit.covariance.sizing import TOKENS_PER_INPUT
    from collabedit.editors import resolve_editor
    from collabedit.messages import Covariance, parse_schedule
    from collabedit.models.devices import checked_device, default_device
    from collabedit.models.loading import load_model, load_structure_only, parse_dtype
    from collabedit.models.precision import has_fast_bfloat16
    from collabedit.models.structure import infer_structure
    from collabedit.planning import (
        ModelShape,
        Workload,
        estimate,
        machine,
        run_trial,
        typical_rates,
    )
    from collabedit.reporting.table import console

    rules, where = resolve_editor(editor), checked_device(device)
    budget, kind = read_bytes(memory_budget), parse_dtype(dtype)
    hf = load_structure_only(model, trust_remote_code=trust_remote_code)
    structure = infer_structure(hf)
    shape = ModelShape.of(hf, structure)
    settings = read_hyperparameters(model, structure, hparams, editor)
    rules.check(settings)
    settings.check_depth(structure.n_layers)
    if covariance:
        Covariance.load(covariance)  # fail early on an unusable file
    computing = torch.device(default_device() if where == "auto" else where)
    quick = kind == torch.float32 and where != "auto" and has_fast_bfloat16(computing)
    wanted = tokens or max(SelfCorpus.default_tokens, TOKENS_PER_INPUT * shape.mlp)
    work = Workload(
        edits=parties * edits_per_party,
        editor=rules,
        schedule=parse_schedule(schedule),
        hyperparameters=settings,
        tokens=0 if covariance else wanted,
        itemsize=kind.itemsize,
        quick=quick and shape.has_room_for_quick_copy(budget),
        memory_budget=budget,
    )
    room = machine.free_memory(where)
    load = partial(
        load_model,
        model,
        dtype=dtype,
        device=where,
        memory_budget=budget,
        trust_remote_code=trust_remote_code,
    )
    tried = run_trial(load, work) if trial else None
    rates = typical_rates(kind, computing, quick=work.quick) if tried is None else tried.rates
    rows = _rows(estimate(shape, work), rates, tried)
    verdict = _verdict(shape, work, room, tried)
    if as_json:
        facts = {"model": model, "stages": rows, "free_bytes": room, **verdict}
        print(json.dumps(facts, indent=2))
        return
    title = f"{model}: {work.edits} edits by {rules.name} in {dtype} on {where}"
    console().print(_table(title, rows).rich())
    print(verdict["verdict"])


def _rows(
    costs: Mapping[str, Cost], rates: Rates, tried: Trial | None
) -> dict[str, dict[str, float]]:
    """Bytes and seconds by stage, and the trial's if there was one."""
    rows: dict[str, dict[str, float]] = {}
    for stage, cost in costs.items():
        rows[stage] = {"bytes": int(cost.memory), "seconds": cost.amount / rates[stage]}
        if tried is not None:
            measured = tried.measured[stage]
            rows[stage] |= {
                "trial_bytes_estimated": int(tried.expected[stage].memory),
                "trial_bytes_measured": measured.memory,
                "trial_seconds": measured.seconds,
            }
    return rows


def _verdict(shape: ModelShape, work: Workload, room: int, tried: Trial | None) -> dict[str, Any]:
    """Whether it fits, by the estimates and by what the trial measured."""
    from collabedit.planning import estimate, peak, remedy

    stage, needed = peak(estimate(shape, work))
    for name, measured in tried.measured.items() if tried else ():
        if measured.memory > needed:
            stage, needed = name, float(measured.memory)
    facts: dict[str, Any] = {"fits": needed <= room, "peak_bytes": int(needed), "peak_stage": stage}
    said = f"{_gigabytes(needed)} at the peak ({stage}), {_gigabytes(room)} free"
    if needed <= room:
        return {**facts, "verdict": f"It fits: {said}."}
    advice = remedy(shape, work, room)
    then = "" if advice.memory is None else f", then {_gigabytes(advice.memory)}"
    return {
        **facts,
        "advice": advice.advice,
        "verdict": f"It does not fit: {said}. Use {advice.advice}{then}.",
    }


def _table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    from collabedit.reporting.table import Column, Row, Table

    tried = any("trial_seconds" in row for row in rows.values())
    stages: list[Row] = [
        {
            "stage": stage,
            "memory": _gigabytes(row["bytes"]),
            "time": _duration(row["seconds"]),
            **(_tried(row) if tried else {}),
        }
        for stage, row in rows.items()
    ]
    total: Row = {
        "stage": "all",
        "memory": _gigabytes(max(row["bytes"] for row in rows.values())),
        "time": _duration(sum(row["seconds"] for row in rows.values())),
    }
    trial = [
        Column("trial_memory", "trial: memory"),
        Column("trial_measured", "measured"),
        Column("trial_time", "time"),
    ]
    columns = [
        Column.name("stage"),
        Column.number("memory"),
        Column.number("time"),
        *(trial if tried else ()),
    ]
    return Table.of(title, columns, stages, [total])


def _tried(row: Mapping[str, float]) -> dict[str, str]:
    """The trial's part of a stage's row."""
    return {
        "trial_memory": _gigabytes(row["trial_bytes_estimated"]),
        "trial_measured": _gigabytes(row["trial_bytes_measured"]),
        "trial_time": _duration(row["trial_seconds"]),
    }


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

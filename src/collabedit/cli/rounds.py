"""``collabedit round``, ``update``, ``merge``, ``apply`` and ``edit``: editing by files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.detection import print_shared
from collabedit.cli.options import (
    CovarianceOption,
    DeviceOption,
    DtypeOption,
    EditorOption,
    HparamsOption,
    MemoryOption,
    ModelOption,
    OverwriteOption,
    ScheduleOption,
    SeedOption,
    SkipBadOption,
    read_bytes,
    read_covariance,
    read_decimals,
    read_hyperparameters,
)

if TYPE_CHECKING:
    from collabedit.editing import Editor
    from collabedit.rounds import Delta, EditUpdate, Party

round_app = typer.Typer(no_args_is_help=True, help="Agree on a round between parties.")

RoundOption = Annotated[
    Path, typer.Option("--round", help="The round.json that all parties share.")
]
SoFarOption = Annotated[
    Path | None,
    typer.Option("--delta", help="Sequential rounds: the delta of the layers merged so far."),
]


@round_app.command("new")
def new(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write round.json.")],
    model: ModelOption = "smollm2-135m",
    editor: EditorOption = "MEMIT",
    schedule: ScheduleOption = "sequential",
    hparams: HparamsOption = None,
    prior_weight: Annotated[
        float | None, typer.Option("--lambda", help="Weight of the prior; the preset's by default.")
    ] = None,
    contexts: Annotated[
        Path | None,
        typer.Option(help="Context templates as JSON, a list of groups; sampled by default."),
    ] = None,
    seed: SeedOption = 0,
    dtype: DtypeOption = "float32",
    device: DeviceOption = None,
) -> None:
    """Make the configuration of a round: model, editor, layers, schedule, settings and contexts.

    Send the file to all parties. It holds no fact of anyone's.
    """
    from collabedit.editing import resolve_editor
    from collabedit.editing.contexts import load_contexts
    from collabedit.models import load_model
    from collabedit.rounds import new_round
    from collabedit.rounds.config import parse_schedule

    rules = resolve_editor(editor)
    _refuse_rounds_by_files(rules)
    chosen_schedule = parse_schedule(schedule)
    templates = None if contexts is None else load_contexts(contexts)
    loaded = load_model(model, dtype=dtype, device=device)
    config = new_round(
        loaded,
        editor=rules.name,
        schedule=chosen_schedule,
        hyperparameters=read_hyperparameters(loaded, hparams, prior_weight, editor),
        contexts=templates,
        seed=seed,
    )
    config.save(out)
    how = f"{config.schedule.value} {config.editor} round"
    print(f"{out}: a {how} on {model}, layers {_spread(config.layers)}")
    print(f"Each party: collabedit update --round {out} --requests FILE -o update.safetensors")


def _refuse_rounds_by_files(editor: Editor) -> None:
    from collabedit.errors import InputError

    if not editor.has_statistics:
        raise InputError(
            f"{editor.name} has no statistics to exchange; each party edits alone (collabedit edit "
            f"--editor {editor.name} -o delta.safetensors) and 'collabedit merge' merges the deltas"
        )
    if editor.one_at_a_time:
        raise InputError(
            f"{editor.name} takes one edit at a time, which would be one exchange of files an "
            "edit; use EMMET with a single layer, which takes all of them together"
        )


def update(
    round_file: RoundOption,
    requests: Annotated[
        Path,
        typer.Option(
            "--requests", "-r", help="Your edits, in any form of the field; they stay here."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The update file to send.")],
    delta: SoFarOption = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Where the model lies here, if not as round.json says."),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--upload-dtype", help="float64, or float32 for half the size.")
    ] = "float64",
    skip_known: Annotated[
        float | None,
        typer.Option(
            help="Skip edits whose new object the unedited model already gives at least this mean "
            "probability per token, such as 0.9."
        ),
    ] = None,
    fingerprint_key: Annotated[
        Path | None,
        typer.Option(
            help="Add fingerprints for 'collabedit detect', under the key in this file, which all "
            "parties share and the coordinator lacks."
        ),
    ] = None,
    fingerprints_only: Annotated[
        bool,
        typer.Option(
            "--fingerprints-only",
            help="Write no statistics: all that 'collabedit detect' needs, before anything is "
            "measured.",
        ),
    ] = False,
    decision: Annotated[
        Path | None,
        typer.Option(help="Leave out what the coordinator's 'collabedit detect' decided."),
    ] = None,
    device: DeviceOption = None,
    memory_budget: MemoryOption = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Do not keep targets between exchanges.")
    ] = False,
    skip_bad: SkipBadOption = False,
) -> None:
    """Compute what a party sends: statistics of its edits, and no text.

    In a sequential round, run it again after each exchange with the merged --delta and all other
    options as they were, since every exchange must be about the same edits. Targets are kept in a
    cache that only you can read.
    """
    from collabedit.editing import TargetCache
    from collabedit.errors import InputError
    from collabedit.models import load_model
    from collabedit.requests import load_records
    from collabedit.rounds import Decision, Delta, Party, RoundConfig, load_key
    from collabedit.rounds.party import checked_threshold

    if dtype not in ("float32", "float64"):
        raise InputError(f"--upload-dtype must be float32 or float64, found {dtype!r}")
    threshold = checked_threshold(skip_known)
    if fingerprint_key is None and (fingerprints_only or decision is not None):
        option = "--decision" if decision is not None else "--fingerprints-only"
        raise InputError(f"{option} needs --fingerprint-key, the key that all parties share")
    key = load_key(fingerprint_key) if fingerprint_key else None
    decided = Decision.load(decision) if decision else None
    config = RoundConfig.load(round_file)
    records = load_records(requests, skip_bad=skip_bad)
    so_far = Delta.load(delta) if delta else Delta.empty(config)
    so_far.check_round(config)
    loaded = load_model(
        model or config.model,
        dtype=config.dtype,
        device=device,
        memory_budget=read_bytes(memory_budget),
    )
    party = Party(
        loaded,
        [record.request for record in records],
        config,
        cache=None if no_cache else TargetCache(),
        skip_known=threshold,
        fingerprint_key=key,
        decision=decided,
    )
    _report_left_out(party, len(records))
    if fingerprints_only:
        made = party.announce()
    else:
        made = party.contribute(so_far, dtype="float32" if dtype == "float32" else "float64")
    made.save(out)
    _report_update(made, out)


def _report_left_out(party: Party, edits: int) -> None:
    if party.skipped:
        print(f"skipped {party.skipped} of {edits} edits that the model already knows")
    if party.left_out:
        print(f"left out {party.left_out} of {edits} edits, as decided")


def _report_update(made: EditUpdate, out: Path) -> None:
    about = made.metadata
    if not made.statistics:
        print(f"{out}: fingerprints of {about.edits} edits, no statistics and no text")
        return
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    text = "fingerprints, no text" if about.fingerprints else "no text"
    print(f"{out}: {about.edits} edits at layers {_spread(about.layers)}, {size}, {text}")


def merge(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Update files of one exchange; or finished deltas, for SA, TA, TIES ..."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The delta file to write.")],
    round_file: Annotated[
        Path | None, typer.Option("--round", help="The round.json; needed for update files.")
    ] = None,
    covariance: Annotated[
        Path | None,
        typer.Option("--covariance", "-C", help="File of 'collabedit stats collect'."),
    ] = None,
    method: Annotated[str, typer.Option(help="Merge method, in any case.")] = "CollabEdit",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="An option of the method, such as keep=0.1; repeatable."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="How much each file counts, in their order, such as 3,1,2; for methods that weigh "
            "the parties (WSA), by their numbers of edits if not given."
        ),
    ] = None,
    delta: SoFarOption = None,
    memory_budget: MemoryOption = None,
) -> None:
    """Merge the parties' updates into one delta; the coordinator's part.

    In a sequential round each exchange merges one layer: give the result as --delta to the next
    'update' and 'merge', until this command says that the round is complete.
    """
    from collabedit.errors import InputError
    from collabedit.files import tensor_metadata
    from collabedit.merging import resolve_method
    from collabedit.rounds import Delta, merge_deltas

    chosen = resolve_method(method)
    options = chosen.checked(_read_options(option or []))
    shares = None if weights is None else read_decimals(weights, "--weights")
    if shares is not None:
        chosen.check_weights(shares, len(inputs))
    formats = {tensor_metadata(path, "input").get("format") for path in inputs}
    if formats == {"collabedit.delta"}:
        deltas = {str(path): Delta.load(path) for path in inputs}
        result = merge_deltas(deltas, chosen, options, shares)
    elif round_file is None or covariance is None:
        raise InputError("merging updates needs --round and --covariance")
    else:
        budget = read_bytes(memory_budget)
        result = _merge_updates(
            inputs, round_file, covariance, chosen.name, options, shares, delta, budget
        )
    result.save(out)
    _report_merge(result, out)


def _merge_updates(
    inputs: list[Path],
    round_file: Path,
    covariance_file: Path,
    method: str,
    options: dict[str, float],
    weights: tuple[float, ...] | None,
    delta: Path | None,
    memory_budget: int | None,
) -> Delta:
    from collabedit.covariance import Covariance
    from collabedit.merging import resolve_method
    from collabedit.rounds import Coordinator, Delta, EditUpdate, RoundConfig

    config = RoundConfig.load(round_file)
    coordinator = Coordinator(
        config,
        config.priors(Covariance.load(covariance_file), memory_budget),
        resolve_method(method),
        options=options,
        delta=Delta.load(delta) if delta else None,
    )
    updates = {str(path): EditUpdate.load(path) for path in inputs}
    merged = coordinator.merge(updates, weights)
    print_shared({party: update.metadata for party, update in updates.items()})
    return merged


def _report_merge(result: Delta, out: Path) -> None:
    about = result.metadata
    print(
        f"{out}: {about.edits} edits of {about.parties} parties by {about.method}, "
        f"layers {_spread(about.layers)}"
    )
    if about.complete:
        print(f"The round is complete: collabedit apply --model {about.model} {out} -o DIR")
    else:
        print(f"Not complete yet: each party runs 'collabedit update' again with --delta {out}")


def apply(
    delta: Annotated[Path, typer.Argument(help="A complete delta file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the edited model.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The unedited model, if not as the delta says."),
    ] = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = None,
) -> None:
    """Write a delta into the model and save it; plain transformers loads the result."""
    from collabedit.export import save_edited_model
    from collabedit.export.model_directory import check_output, check_output_directory
    from collabedit.models import load_model
    from collabedit.rounds import Delta

    check_output_directory(out, overwrite=overwrite)
    loaded_delta = Delta.load(delta)
    loaded_delta.require_complete()
    about = loaded_delta.metadata
    loaded = load_model(model or about.model, dtype=about.dtype, device=device)
    check_output(out, loaded, overwrite=overwrite)
    save_edited_model(loaded, loaded_delta, out, overwrite=overwrite, delta_file=delta)
    print(f"{out}: {about.model} with {about.edits} edits, layers {_spread(about.layers)}")
    print(f'Load it with: transformers.AutoModelForCausalLM.from_pretrained("{out}")')


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
            help="A directory for the edited model, or a .safetensors file for the delta alone.",
        ),
    ],
    model: ModelOption = "smollm2-135m",
    editor: EditorOption = "MEMIT",
    schedule: ScheduleOption = "sequential",
    covariance: CovarianceOption = None,
    hparams: HparamsOption = None,
    prior_weight: Annotated[
        float | None, typer.Option("--lambda", help="Weight of the prior; the preset's by default.")
    ] = None,
    seed: SeedOption = 0,
    dtype: DtypeOption = "float32",
    device: DeviceOption = None,
    memory_budget: MemoryOption = None,
    skip_bad: SkipBadOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Edit a model alone: one party, all in one go."""
    from collabedit.editing import TargetCache, resolve_editor
    from collabedit.export import save_edited_model
    from collabedit.export.model_directory import check_output, check_output_directory
    from collabedit.files import check_output_file
    from collabedit.merging import resolve_method
    from collabedit.models import load_model
    from collabedit.requests import load_records
    from collabedit.rounds import Coordinator, Party, new_round, run_round
    from collabedit.rounds.config import parse_schedule

    rules = resolve_editor(editor)
    chosen_schedule = parse_schedule(schedule)
    records = load_records(requests, skip_bad=skip_bad)
    as_delta = out.suffix == ".safetensors"
    if as_delta:
        check_output_file(out)
    else:
        check_output_directory(out, overwrite=overwrite)
    loaded = load_model(model, dtype=dtype, device=device, memory_budget=read_bytes(memory_budget))
    if not as_delta:
        check_output(out, loaded, overwrite=overwrite)
    config = new_round(
        loaded,
        editor=rules.name,
        schedule=chosen_schedule,
        hyperparameters=read_hyperparameters(loaded, hparams, prior_weight, editor),
        seed=seed,
    )
    moments = (
        read_covariance(covariance, loaded, config.layers, seed) if rules.has_statistics else None
    )
    priors = config.priors(moments, loaded.memory_budget)
    party = Party(loaded, [record.request for record in records], config, cache=TargetCache())
    delta = run_round([party], Coordinator(config, priors, resolve_method("GLOBAL")))
    if as_delta:
        delta.save(out)
    else:
        save_edited_model(loaded, delta, out, overwrite=overwrite)
    print(f"{out}: {model} with {len(records)} edits, layers {_spread(config.layers)}")


def _read_options(pairs: list[str]) -> dict[str, float]:
    from collabedit.errors import InputError

    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            options[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(f"--option: cannot read {pair!r}; write it like keep=0.1")
    return options


def _spread(layers: tuple[int, ...]) -> str:
    return f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else str(layers[0])

"""``collabedit round new``: agree on a round."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.defaults import default_of
from collabedit.cli.options import (
    DeviceOption,
    DtypeOption,
    EditorOption,
    HparamsOption,
    LambdaOption,
    ModelOption,
    ScheduleOption,
    SeedOption,
    TrustOption,
    read_hyperparameters,
    spread,
)
from collabedit.cli.secure import secure_section

if TYPE_CHECKING:
    from collabedit.editors import Editor

app = typer.Typer(no_args_is_help=True, help="Agree on a round between parties.")


@app.command("new")
def new(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write round.json.")],
    model: ModelOption = default_of("model"),
    editor: EditorOption = default_of("editor"),
    schedule: ScheduleOption = default_of("schedule"),
    hparams: HparamsOption = None,
    prior_weight: LambdaOption = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Not the first round: the state that 'collabedit merge --state' wrote. --model is "
            "then the model with all earlier deltas applied."
        ),
    ] = None,
    contexts: Annotated[
        Path | None,
        typer.Option(help="Context templates as JSON, a list of groups; sampled by default."),
    ] = None,
    secure_aggregation: Annotated[
        bool,
        typer.Option(
            "--secure-aggregation",
            help="The coordinator learns sums over the parties, and nothing of a single one "
            "(docs/explanation/privacy.md).",
        ),
    ] = False,
    roster: Annotated[
        Path | None,
        typer.Option(help="Secure aggregation: JSON of the parties' public keys by name."),
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option(
            help="Secure aggregation: how many parties must stay; more than two thirds by default."
        ),
    ] = None,
    max_edits: Annotated[
        int | None,
        typer.Option(help="Secure aggregation: most edits of all parties together."),
    ] = None,
    sum_form: Annotated[
        str,
        typer.Option(help="Secure aggregation: dense, sketched, or auto for the smaller one."),
    ] = "auto",
    seed: SeedOption = default_of("seed"),
    dtype: DtypeOption = default_of("dtype"),
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Make the configuration of a round: model, editor, layers, schedule, settings and contexts.

    Send the file to all parties. It holds no fact of anyone's.
    """
    from collabedit.editors import load_contexts, resolve_editor
    from collabedit.messages import RoundState, parse_schedule
    from collabedit.models import load_model
    from collabedit.parties import new_round

    rules = resolve_editor(editor)
    _refuse_rounds_by_files(rules)
    chosen_schedule = parse_schedule(schedule)
    section = secure_section(roster, threshold, max_edits, sum_form) if secure_aggregation else None
    templates = None if contexts is None else load_contexts(contexts)
    loaded = load_model(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    config = new_round(
        loaded,
        editor=rules.name,
        schedule=chosen_schedule,
        hyperparameters=read_hyperparameters(loaded, hparams, prior_weight, editor),
        contexts=templates,
        seed=seed,
        state=None if state is None else RoundState.load(state),
        secure_aggregation=None
        if section is None
        else section(loaded.structure.mlp_size, loaded.structure.hidden_size),
    )
    config.save(out)
    how = f"{config.schedule.value} {config.editor} round"
    print(f"{out}: a {how} on {model}, layers {spread(config.layers)}")
    identity = " --identity KEY --roster ROSTER" if secure_aggregation else ""
    print(
        f"Each party: collabedit contribute --round {out} --requests FILE{identity} "
        "-o mine.safetensors"
    )


@app.command("key")
def key(
    party: Annotated[str, typer.Argument(help="What the roster calls you.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to keep the secret key.")],
) -> None:
    """Make your key for secure aggregation, and print its public half for the roster.

    The file is secret: it stays with you. Tell the public key to the other parties on a way that
    the coordinator does not control; all keys together are the roster, a JSON object.
    """
    from collabedit.privacy.secure import Identity

    identity = Identity.new(party)
    identity.save(out)
    print(f'"{party}": "{identity.public}"')


def _refuse_rounds_by_files(editor: Editor) -> None:
    from collabedit.errors import InputError

    if not editor.has_statistics:
        raise InputError(
            f"{editor.name} has no statistics to exchange; each party edits alone (collabedit edit "
            f"--editor {editor.name} -o delta.safetensors) and 'collabedit merge' merges the deltas"
        )
    if editor.normalises:
        raise InputError(
            f"{editor.name} needs two messages of each party, and files carry one; run it over a "
            "network (collabedit federation) or in one process (collabedit run)"
        )
    if not editor.at_once:
        raise InputError(
            f"{editor.name} takes one edit at a time, which would be one exchange of files an "
            "edit; use EMMET with a single layer, which takes all of them together"
        )

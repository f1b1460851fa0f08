"""``collabedit round new``: agree on a round."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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

if TYPE_CHECKING:
    from collabedit.editors import Editor

app = typer.Typer(no_args_is_help=True, help="Agree on a round between parties.")


@app.command("new")
def new(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write round.json.")],
    model: ModelOption = "smollm2-135m",
    editor: EditorOption = "MEMIT",
    schedule: ScheduleOption = "layerwise",
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
    seed: SeedOption = 0,
    dtype: DtypeOption = "float32",
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
    )
    config.save(out)
    how = f"{config.schedule.value} {config.editor} round"
    print(f"{out}: a {how} on {model}, layers {spread(config.layers)}")
    print(f"Each party: collabedit contribute --round {out} --requests FILE -o mine.safetensors")


def _refuse_rounds_by_files(editor: Editor) -> None:
    from collabedit.editors import Procedure
    from collabedit.errors import InputError

    if not editor.has_statistics:
        raise InputError(
            f"{editor.name} has no statistics to exchange; each party edits alone (collabedit edit "
            f"--editor {editor.name} -o delta.safetensors) and 'collabedit merge' merges the deltas"
        )
    if editor.procedure is Procedure.GRADIENTS:
        raise InputError(
            f"{editor.name} needs two messages of each party, and files carry one; run it over a "
            "network (collabedit federation) or in one process (collabedit run)"
        )
    if not editor.at_once:
        raise InputError(
            f"{editor.name} takes one edit at a time, which would be one exchange of files an "
            "edit; use EMMET with a single layer, which takes all of them together"
        )

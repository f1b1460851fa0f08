"""``collabedit round``: agree on a round, and on whether to keep its delta."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.defaults import default_of
from collabedit.cli.gate import bounds_section, decide, gate_section, vote
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

app = typer.Typer(
    no_args_is_help=True,
    help="Set up a round between parties, and decide whether to keep its delta.",
)
app.command("vote")(vote)
app.command("decide")(decide)


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
            help="For later rounds: the state that 'collabedit merge --state' wrote. --model is "
            "then the model with all earlier deltas applied."
        ),
    ] = None,
    contexts: Annotated[
        Path | None,
        typer.Option(help="Context templates as JSON, a list of groups; sampled by default."),
    ] = None,
    party_edits: Annotated[
        int | None, typer.Option(min=1, help="Refuse parties with more edits.")
    ] = None,
    party_rank: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse parties whose statistics have a higher rank in a layer."),
    ] = None,
    party_norm: Annotated[
        float | None,
        typer.Option(
            help="Refuse parties whose keys or residuals per edit are larger or smaller than the "
            "median party's by more than this factor."
        ),
    ] = None,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate",
            help="Keep the delta only once the parties have tried it and accept (round vote, round "
            "decide); implied by the limits below. Rounds over a network always have a gate.",
        ),
    ] = False,
    least_efficacy: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Gate: share of a party's edited prompts that must hold; 0.5 by default.",
        ),
    ] = None,
    most_loss: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Gate: share of a party's neighbouring prompts that may be lost; 0.5 by default.",
        ),
    ] = None,
    most_perplexity: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Gate: highest allowed ratio of held-out perplexity to before; 1.5 by default.",
        ),
    ] = None,
    least_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Gate: share of the votes that must accept; all by default, 0 only reports.",
        ),
    ] = None,
    secure_aggregation: Annotated[
        bool,
        typer.Option(
            "--secure-aggregation",
            help="The coordinator learns only sums over the parties, and nothing about any single "
            "one (docs/explanation/privacy.md).",
        ),
    ] = False,
    roster: Annotated[
        Path | None,
        typer.Option(help="Secure aggregation: JSON file of the parties' public keys by name."),
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option(
            help="Secure aggregation: how many parties must stay, T of N; more than two thirds by "
            "default. As long as N plus the parties that collude with the coordinator is below "
            "2 T, the others stay hidden."
        ),
    ] = None,
    max_edits: Annotated[
        int | None,
        typer.Option(help="Secure aggregation: maximum number of edits of all parties together."),
    ] = None,
    sum_form: Annotated[
        str,
        typer.Option(help="Secure aggregation: dense, sketched, or auto for the smaller form."),
    ] = "auto",
    seed: SeedOption = default_of("seed"),
    dtype: DtypeOption = default_of("dtype"),
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write the configuration of a round: model, editor, layers, schedule, settings and contexts.

    Send the file to all parties. It contains nobody's facts.
    """
    from collabedit.editors import load_contexts, resolve_editor
    from collabedit.messages import RoundState, parse_schedule
    from collabedit.models import load_model
    from collabedit.parties import new_round

    rules = resolve_editor(editor)
    _refuse_rounds_by_files(rules)
    chosen_schedule = parse_schedule(schedule)
    section = secure_section(roster, threshold, max_edits, sum_form) if secure_aggregation else None
    bounds = bounds_section(party_edits, party_rank, party_norm)
    votes = gate_section(gate, least_efficacy, most_loss, most_perplexity, least_share)
    templates = None if contexts is None else load_contexts(contexts)
    loaded = load_model(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    config = new_round(
        loaded,
        editor=rules.name,
        schedule=chosen_schedule,
        hyperparameters=read_hyperparameters(
            loaded.name, loaded.structure, hparams, editor, prior_weight
        ),
        contexts=templates,
        seed=seed,
        state=None if state is None else RoundState.load(state),
        secure_aggregation=section,
        bounds=bounds,
        gate=votes,
    )
    config.save(out)
    how = f"{config.schedule.value} {config.editor} round"
    print(f"{out}: a {how} on {model}, layers {spread(config.layers)}")
    identity = " --identity KEY --roster ROSTER" if secure_aggregation else ""
    if config.secure_aggregation is not None:
        secure = config.secure_aggregation
        print(
            f"sums only: {secure.threshold} of {len(secure.roster)} parties must stay, and up to "
            f"{secure.colluders} may collude with the coordinator without exposing another"
        )
    print(
        f"Each party: collabedit contribute --round {out} --requests FILE{identity} "
        "-o mine.safetensors"
    )


@app.command("key")
def key(
    party: Annotated[str, typer.Argument(help="Your name in the roster.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to keep the secret key.")],
) -> None:
    """Create your key for secure aggregation, and print its public half for the roster.

    The file is secret: keep it to yourself. Send the public key to the other parties through a
    channel that the coordinator does not control; all keys together form the roster, a JSON object.
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
            f"{editor.name} needs two messages from each party, and files carry one; run it over a "
            "network (collabedit federation) or in one process (collabedit run)"
        )
    if not editor.at_once:
        raise InputError(
            f"{editor.name} takes one edit at a time, which would take one exchange of files per "
            "edit; use EMMET with a single layer, which takes all of them together"
        )

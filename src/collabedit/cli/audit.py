"""``collabedit audit``: attack the messages of a round."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collabedit.cli.options import DeviceOption, RoundOption, TrustOption

if TYPE_CHECKING:
    from collabedit.experiments.audit import Candidates, Finding, Sent


def audit(
    files: Annotated[
        list[Path],
        typer.Argument(help="Contributions, masked sums, a ledger, or a delta of one round."),
    ],
    round_file: RoundOption,
    candidates: Annotated[
        Path, typer.Option("--candidates", help="Facts that the attacker guesses, members or not.")
    ],
    members: Annotated[
        list[Path] | None,
        typer.Option(
            "--members",
            help="Which of them are members, to measure the attack: one file of facts for each "
            "FILE, in the same order. Without it, the likeliest candidates of each file are "
            "listed.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The unedited model, if not the one round.json names."),
    ] = None,
    covariance: Annotated[
        Path | None,
        typer.Option(
            "--covariance",
            "-C",
            help="File from 'collabedit stats collect', as the coordinator has it. Attacks on keys "
            "and on a delta use it if given.",
        ),
    ] = None,
    attacks: Annotated[
        str,
        typer.Option(
            help="Comma-separated: span, residual (finds targets, about a second per candidate), "
            "subject, behaviour."
        ),
    ] = "span,subject,behaviour",
    any_relation: Annotated[
        bool,
        typer.Option(
            "--any-relation",
            help="Also count non-members whose relation no member has, which is an easier attack.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the ROC curves to this PNG (extra 'plot').")
    ] = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Measure what files give away, by attacking your own round with guessed facts.

    Membership: is this fact among the edits of this file? Attribution: which of the files holds it?
    An attack that fails here proves nothing; one that succeeds does. Everything runs on this
    machine.
    """
    import json

    from collabedit.errors import InputError
    from collabedit.experiments.audit import (
        ATTACKS,
        Audit,
        Candidates,
        indices_of,
        load_sent,
        same_relations,
    )
    from collabedit.messages import Covariance, RoundConfig
    from collabedit.models import load_model
    from collabedit.requests import load_records
    from collabedit.rounds import static_priors

    chosen = [name.strip().lower() for name in attacks.split(",")]
    unknown = [name for name in chosen if name not in ATTACKS]
    if unknown:
        raise InputError(f"unknown attack {unknown[0]!r}; choose from: {', '.join(ATTACKS)}")
    if members and len(members) != len(files):
        raise InputError(f"{len(files)} files but {len(members)} --members; give one for each file")
    if plot is not None and not members:
        raise InputError("--plot needs --members: there is no curve unless the attack is measured")
    config = RoundConfig.load(round_file)
    sent = [load_sent(path, config) for path in files]
    facts = [record.request for record in load_records(candidates)]
    held = [
        indices_of(facts, [record.request for record in load_records(path)])
        for path in members or []
    ]
    everything = any_relation or not members
    kept = list(range(len(facts))) if everything else same_relations(facts, held)
    held = [{kept.index(index) for index in indices} for indices in held]
    priors = {}
    if covariance is not None:
        priors = dict(static_priors(config, Covariance.load(covariance)))
    loaded = load_model(
        model or config.model,
        dtype=config.dtype,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    guesses = Candidates(loaded, [facts[index] for index in kept], config, priors)
    if not members:
        _list_likeliest(guesses, sent, chosen, as_json)
        return
    findings = Audit(guesses, held).run(sent, chosen)
    if as_json:
        print(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        _show(findings)
    if plot is not None:
        from collabedit.reporting.audit_plot import save_roc

        save_roc(findings, plot)


def _list_likeliest(
    guesses: Candidates, sent: list[Sent], attacks: list[str], as_json: bool
) -> None:
    import json

    from collabedit.experiments.audit import likeliest

    rows = likeliest(guesses, sent, attacks)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        _print("the likeliest candidates of each file", rows)


def _show(findings: list[Finding]) -> None:
    from collabedit.experiments.audit import report

    _print("95 % confidence intervals in brackets", report(findings))


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    from collabedit.reporting.table import Column, Table, console

    if not rows:
        print("none of these attacks applies to these files")
        return
    columns = [Column.words(key) for key in rows[0]]
    console().print(Table.of(title, columns, rows).rich())

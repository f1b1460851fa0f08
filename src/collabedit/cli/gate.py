"""``collabedit round vote`` and ``round decide``: the gate of a round by files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.options import DeviceOption, RoundOption, SkipBadOption, TrustOption

if TYPE_CHECKING:
    from collabedit.messages import Bounds, Evaluation, Gate, RoundConfig

__all__ = ["bounds_section", "decide", "gate_section", "vote"]


def vote(
    delta: Annotated[Path, typer.Argument(help="The complete delta of the round.")],
    round_file: RoundOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="The vote to send, JSON.")],
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            "-r",
            help="Your edits; they stay here. Leave this out to vote as a coordinator that has the "
            "model.",
        ),
    ] = None,
    party: Annotated[str | None, typer.Option(help="Your name, as in your contribution.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The model on this machine, if not as in round.json."),
    ] = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    skip_bad: SkipBadOption = False,
) -> None:
    """Try a merged delta before it is kept: on your edits, their neighbours and held-out text.

    The vote contains counts, a ratio, and whether you accept under the limits in round.json.
    """
    from collabedit.messages import Delta, RoundConfig
    from collabedit.models import load_model
    from collabedit.parties import try_delta
    from collabedit.requests import load_records
    from collabedit.rounds import COORDINATOR

    config = RoundConfig.load(round_file)
    tried = Delta.load(delta)
    tried.check_round(config)
    tried.require_complete()
    records = [] if requests is None else load_records(requests, skip_bad=skip_bad)
    name = (COORDINATOR if requests is None else "") if party is None else party
    loaded = load_model(
        model or config.model,
        dtype=config.dtype,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    result = try_delta(loaded, tried, config, records, party=name)
    result.save(out)
    for kind, hits in result.hits.items():
        if hits.of:
            print(f"{kind} prompts: {hits.before} of {hits.of} before, {hits.after} after")
    print(f"held-out text: perplexity {result.perplexity:.3g} times as high as before")
    print(f"{out}: {name or 'this party'} {config.vote_by.words(result)}")


def decide(
    votes: Annotated[list[Path], typer.Argument(help="The parties' votes, and your own.")],
    round_file: RoundOption,
    state: Annotated[
        Path | None,
        typer.Option(help="Several rounds: the state between them, written if the delta is kept."),
    ] = None,
) -> None:
    """Count the votes on a merged delta, and keep it or roll back; for the coordinator.

    The verdict goes into the ledger beside round.json. A rollback leaves the state unchanged and
    exits with status 1.
    """
    from dataclasses import replace

    from collabedit.messages import RoundConfig
    from collabedit.rounds import Ledger, judge, keep_state, ledger_file_of, state_before

    config = RoundConfig.load(round_file)
    before = state_before(config, state)
    ledger_file = ledger_file_of(round_file)
    ledger = Ledger.load(ledger_file)
    ledger.delta.check_round(config)
    ledger.delta.require_complete()
    named = _named(votes, config, ledger.delta.sha256)
    parties = [entry.party for entry in ledger.exchanges[-1].entries]
    verdict = judge(config.vote_by, named, parties)
    replace(ledger, verdict=verdict).save(ledger_file)
    for party, vote_ in named.items():
        print(f"{party} {config.vote_by.words(vote_)}")
    if not verdict.accepted:
        print(f"rolled back: {verdict.reason}")
        print("The delta must not be applied; the next round starts where this one did")
        raise typer.Exit(1)
    print(f"accepted: each party runs 'collabedit apply --model {config.model} DELTA -o DIR'")
    line = keep_state(state, before, ledger)
    if line is not None:
        print(line)


def _named(paths: list[Path], config: RoundConfig, delta_sha256: str) -> dict[str, Evaluation]:
    """The votes by party, or by file if a party does not name itself.

    Raises:
        InputError: when a party votes twice.
        RoundError: when a vote is about another round or another delta.
    """
    from collabedit.errors import InputError, RoundError
    from collabedit.messages import Evaluation

    named: dict[str, Evaluation] = {}
    for path in paths:
        cast = Evaluation.load(path)
        try:
            cast.check(config.sha256, delta_sha256)
        except RoundError as error:
            raise RoundError(f"{path}: {error}") from None
        name = cast.party or str(path)
        if name in named:
            raise InputError(f"{path}: a second vote from {name}; give one per party")
        named[name] = cast
    return named


def gate_section(
    wanted: bool,
    least_efficacy: float | None,
    most_loss: float | None,
    most_perplexity: float | None,
    least_share: float | None,
) -> Gate | None:
    """The gate for ``round new``: the given limits, and defaults for the others."""
    from collabedit.messages import Gate

    given = {
        "least_efficacy": least_efficacy,
        "most_loss": most_loss,
        "most_perplexity": most_perplexity,
        "least_share": least_share,
    }
    limits = {name: value for name, value in given.items() if value is not None}
    return Gate.model_validate(limits) if limits or wanted else None


def bounds_section(edits: int | None, rank: int | None, norm: float | None) -> Bounds | None:
    """The bounds on contributions for ``round new``.

    Raises:
        InputError: when a bound on norms would refuse every party.
    """
    from collabedit.errors import InputError
    from collabedit.messages import Bounds

    if edits is None and rank is None and norm is None:
        return None
    if norm is not None and norm <= 1:
        raise InputError(f"--party-norm must be above 1, since it is a factor; found {norm:g}")
    return Bounds(edits=edits, rank=rank, norm=norm)

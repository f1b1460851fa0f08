"""``collabedit withdraw``: remove a party from a finished round."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.options import MemoryOption, RoundOption, read_bytes

if TYPE_CHECKING:
    from collabedit.messages import Contribution, RoundConfig
    from collabedit.rounds import Ledger


def withdraw(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="The contributions of the round's first exchange."),
    ],
    round_file: RoundOption,
    without: Annotated[
        list[str],
        typer.Option(
            "--without",
            help="The party to remove: its name, its file, or the SHA-256 of its contribution in "
            "the ledger; repeatable.",
        ),
    ],
    covariance: Annotated[
        Path, typer.Option("--covariance", "-C", help="The covariance that the round used.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The delta file to write.")],
    memory_budget: MemoryOption = None,
) -> None:
    """Remove a party from a finished round, exactly as if it had never joined.

    Statistics add up, so a one-shot round is merged again without the party. In a layerwise round
    the later layers were measured on top of the party's edits: the first layer is merged again
    here, and the other parties run the remaining exchanges again. The digests in the ledger beside
    the round file identify the contribution; afterwards the ledger describes the round without it.
    """
    from collabedit.errors import InputError
    from collabedit.merging import resolve_method
    from collabedit.messages import Contribution, Covariance, RoundConfig
    from collabedit.rounds import Coordinator, Ledger, ledger_file_of, static_priors

    config = RoundConfig.load(round_file)
    _require_separable(config)
    ledger_file = ledger_file_of(round_file)
    ledger = Ledger.load(ledger_file)
    ledger.delta.check_round(config)
    sent = {str(path): Contribution.load(path) for path in inputs}
    gone = _taken_out(ledger, sent, without)
    rest = {name: each for name, each in sent.items() if each.sha256 not in gone}
    if not rest:
        raise InputError("no party is left, so there is no delta to make; keep at least one")
    about = ledger.delta.metadata
    coordinator = Coordinator(
        config,
        static_priors(config, Covariance.load(covariance), read_bytes(memory_budget)),
        resolve_method(about.method),
        options=about.options,
    )
    delta = coordinator.merge(rest)
    delta.save(out)
    coordinator.ledger.save(ledger_file)
    for sha256, party in gone.items():
        print(f"removed: {party}, contribution {sha256}")
    if delta.metadata.complete:
        print(
            f"{out}: {delta.metadata.edits} edits of {delta.metadata.parties} parties, exactly "
            "as if the round had been made without"
        )
        print("Apply it to the unedited model; models with the old delta still state the facts")
    else:
        print(
            f"{out}: the first layer without it. The later ones depended on it: each party runs "
            f"'collabedit contribute' again with --delta {out}, as in the original round"
        )


def _require_separable(config: RoundConfig) -> None:
    from collabedit.errors import RoundError

    if config.secure_aggregation is not None:
        raise RoundError(
            "under secure aggregation the coordinator only has the sum, and can't remove a party "
            "from it; run a new round without the party"
        )
    if config.state_sha256:
        raise RoundError(
            "the round follows earlier ones, whose state it changed; repeat it from the state "
            "before it, without the party"
        )


def _taken_out(ledger: Ledger, sent: dict[str, Contribution], without: list[str]) -> dict[str, str]:
    """The parties to remove, by the digest of their contribution.

    Raises:
        InputError: when a file is not from the round, one is missing, or a party is unknown.
    """
    from collabedit.errors import InputError

    entries = {each.sha256: each.party for each in ledger.exchanges[0].entries}
    files = {each.sha256: name for name, each in sent.items()}
    for name, each in sent.items():
        if each.sha256 not in entries:
            raise InputError(f"{name}: not a contribution of the round's first exchange")
    gone: dict[str, str] = {}
    for wanted in without:
        found = {
            sha256: party
            for sha256, party in entries.items()
            if wanted in (sha256, party, files.get(sha256))
        }
        if not found:
            raise InputError(
                f"--without {wanted}: no such party in the ledger; it has "
                f"{', '.join(entries.values())}"
            )
        gone |= found
    missing = [party for sha256, party in entries.items() if sha256 not in files.keys() | gone]
    if missing:
        raise InputError(f"the contribution of {', '.join(missing)} is missing; give all that stay")
    return gone

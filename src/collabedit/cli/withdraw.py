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
    removed = _removed(ledger, sent, without)
    rest = {file: part for file, part in sent.items() if part.sha256 not in removed}
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
    for sha256, party in removed.items():
        print(f"removed: {party}, contribution {sha256}")
    if delta.metadata.complete:
        print(
            f"{out}: {delta.metadata.edits} edits of {delta.metadata.parties} parties, exactly "
            "as if the removed parties had never joined"
        )
        print("Apply it to the unedited model; models with the old delta still state the facts")
    else:
        print(
            f"{out}: the first layer, merged again. The later layers depended on it, so each party "
            f"runs 'collabedit contribute' again with --delta {out}, as in the original round"
        )


def _require_separable(config: RoundConfig) -> None:
    from collabedit.errors import RoundError

    if config.secure_aggregation is not None:
        raise RoundError(
            "under secure aggregation the coordinator has only the sum and can't remove a party "
            "from it; run a new round without the party"
        )
    if config.state_sha256:
        raise RoundError(
            "the round follows earlier ones, whose state it changed; repeat it from the state "
            "before it, without the party"
        )


def _removed(ledger: Ledger, sent: dict[str, Contribution], without: list[str]) -> dict[str, str]:
    """The parties to remove, by the digest of their contribution.

    Raises:
        InputError: when a file is not from the round, one is missing, or a party is unknown.
    """
    from collabedit.errors import InputError

    entries = {entry.sha256: entry.party for entry in ledger.exchanges[0].entries}
    files = {part.sha256: file for file, part in sent.items()}
    for file, part in sent.items():
        if part.sha256 not in entries:
            raise InputError(f"{file}: not a contribution to the round's first exchange")
    removed: dict[str, str] = {}
    for wanted in without:
        matching = {
            sha256: party
            for sha256, party in entries.items()
            if wanted in (sha256, party, files.get(sha256))
        }
        if not matching:
            raise InputError(
                f"--without {wanted}: no such party in the ledger; it has "
                f"{', '.join(entries.values())}"
            )
        removed |= matching
    missing = [party for sha256, party in entries.items() if sha256 not in files.keys() | removed]
    if missing:
        raise InputError(
            f"the contribution of {', '.join(missing)} is missing; give those of all parties that "
            "stay"
        )
    return removed

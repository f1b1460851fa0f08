"""``collabedit contribute``: compute a party's contribution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collabedit.cli.options import (
    DeviceOption,
    MemoryOption,
    NoCacheOption,
    RosterOption,
    RoundOption,
    SkipBadOption,
    SkipKnownOption,
    SoFarOption,
    SumAgainOption,
    TrustOption,
    WorkersOption,
    read_bytes,
    spread,
)
from collabedit.cli.secure import answer, open_request, require_roster

if TYPE_CHECKING:
    from collabedit.messages import Contribution, RoundConfig
    from collabedit.parties import Party
    from collabedit.privacy.secure import SecureParty
    from collabedit.requests import EditRequest
    from collabedit.workers import ModelSource


def contribute(
    round_file: RoundOption,
    requests: Annotated[
        Path,
        typer.Option("--requests", "-r", help="Your edits, in any common format; they stay here."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The contribution to send.")],
    delta: SoFarOption = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The model on this machine, if not as in round.json."),
    ] = None,
    party: Annotated[
        str,
        typer.Option(help="Your name, as the coordinator will see it; none by default."),
    ] = "",
    dtype: Annotated[
        str, typer.Option("--upload-dtype", help="float64, or float32 for half the size.")
    ] = "float64",
    skip_known: SkipKnownOption = None,
    fingerprint_key: Annotated[
        Path | None,
        typer.Option(
            help="Add fingerprints for 'collabedit detect', under the key in this file, which all "
            "parties share and the coordinator does not have."
        ),
    ] = None,
    fingerprints_only: Annotated[
        bool,
        typer.Option(
            "--fingerprints-only",
            help="Write no statistics, only what 'collabedit detect' needs, before anything is "
            "measured.",
        ),
    ] = False,
    decision: Annotated[
        Path | None,
        typer.Option(help="Leave out edits as the coordinator's 'collabedit detect' decided."),
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(help="Secure aggregation: your key, from 'collabedit round key'."),
    ] = None,
    roster: RosterOption = None,
    sum_again: SumAgainOption = False,
    request: Annotated[
        Path | None,
        typer.Option(
            "--answer",
            help="Secure aggregation: the coordinator's request to answer; without it, start with "
            "the first step.",
        ),
    ] = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    memory_budget: MemoryOption = None,
    no_cache: NoCacheOption = False,
    skip_bad: SkipBadOption = False,
    workers: WorkersOption = None,
) -> None:
    """Compute a party's contribution: statistics of its edits, and no text.

    In a layerwise round, run it again after each exchange with the merged --delta and all other
    options unchanged, since every exchange must be about the same edits. Targets are kept in a
    cache that only you can read.
    """
    from collabedit.editing import TargetCache
    from collabedit.errors import InputError
    from collabedit.messages import Decision, Delta, RoundConfig
    from collabedit.parties import Companions, checked_threshold
    from collabedit.privacy import load_key
    from collabedit.requests import load_records
    from collabedit.workers import ModelSource, check_workers

    if dtype not in ("float32", "float64"):
        raise InputError(f"--upload-dtype must be float32 or float64, found {dtype!r}")
    check_workers(workers)
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

    edits = [record.request for record in records]
    budget = read_bytes(memory_budget)
    source = ModelSource(model or config.model, config.dtype, device, budget, trust_remote_code)
    make_party = partial(
        _make_party,
        source,
        edits,
        config,
        None if fingerprints_only else workers,
        cache=None if no_cache else TargetCache(),
        skip_known=threshold,
        fingerprint_key=key,
        decision=decided,
        name=party,
    )

    if config.secure_aggregation is not None and not fingerprints_only:
        if identity is None:
            raise InputError(
                f"{round_file} uses secure aggregation; give your --identity (collabedit round key)"
            )
        require_roster(identity, roster)

        def confirming(name: str, parties: Sequence[str]) -> None:
            Companions(name).join(config.sha256, edits, parties, again=sum_again)

        asked = open_request(config, request)
        answer(config, asked, identity, roster, make_party, confirming, out)
        return
    if identity is not None or request is not None:
        raise InputError(f"{round_file} does not use secure aggregation; remove --identity")
    ours = make_party()
    if fingerprints_only:
        contribution = ours.announce()
    else:
        contribution = ours.contribute(so_far, dtype="float32" if dtype == "float32" else "float64")
    contribution.save(out)
    _report(contribution, out)


def _make_party(
    source: ModelSource,
    edits: Sequence[EditRequest],
    config: RoundConfig,
    workers: str | None,
    secure: SecureParty | None = None,
    **options: Any,
) -> Party:
    """Load the model, and search for the targets now where workers or a sum need them."""
    from collabedit.parties import Party, stored_secret
    from collabedit.workers import open_model_workers

    loaded = source.load()
    ours = Party(loaded, edits, config, secret=stored_secret(), secure=secure, **options)
    with open_model_workers(workers, source, loaded) as helpers:
        if helpers is not None or secure is not None:
            ours.prepare(helpers.solve if helpers else None)
    _report_left_out(ours, len(edits))
    return ours


def _report_left_out(party: Party, edits: int) -> None:
    if party.skipped:
        print(f"skipped {party.skipped} of {edits} edits that the model already knows")
    if party.left_out:
        print(f"left out {party.left_out} of {edits} edits, as decided")


def _report(contribution: Contribution, out: Path) -> None:
    about = contribution.metadata
    if not contribution.statistics:
        print(f"{out}: fingerprints of {about.edits} edits, no statistics and no text")
        return
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    text = "fingerprints, no text" if about.fingerprints else "no text"
    print(f"{out}: {about.edits} edits at layers {spread(about.layers)}, {size}, {text}")

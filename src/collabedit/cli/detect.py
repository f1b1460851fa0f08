"""``collabedit detect``: overlaps and conflicts between the parties' contributions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.errors import InputError

if TYPE_CHECKING:
    from collabedit.messages import ContributionMetadata, Decision, Policy
    from collabedit.privacy import Detection
    from collabedit.reporting.table import Table

_NOTE = "overlapping / conflicting questions of two parties; on the diagonal, within one party"


def detect(
    updates: Annotated[
        list[Path],
        typer.Argument(help="Contributions made with --fingerprint-key, one from each party."),
    ],
    policy: Annotated[
        str,
        typer.Option(
            help="Whose edit of a shared question is kept: 'report' keeps everyone's; 'first' the "
            "first file's; 'majority' the most common one; 'prefer' that of --prefer; 'drop' "
            "nobody's in a conflict."
        ),
    ] = "report",
    prefer: Annotated[
        Path | None, typer.Option(help="The contribution that --policy prefer gives precedence.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write decision.json.")
    ] = None,
) -> None:
    """Find edits that parties share, or in which they contradict each other; for the coordinator.

    The coordinator sees how many there are, not what they say. With a policy it decides which are
    kept: the parties then contribute with that --decision, before anything is merged.
    """
    from collabedit.messages import ContributionMetadata, parse_policy
    from collabedit.privacy import decide
    from collabedit.privacy import detect as find

    chosen = parse_policy(policy)
    _check_out(chosen, out)
    detection = find({str(path): ContributionMetadata.load(path) for path in updates})
    decision = decide(detection, chosen, None if prefer is None else str(prefer))
    show_detection(detection)
    if out is not None:
        decision.save(out)
        _report_decision(detection, decision, out)
    elif detection.questions:
        print("To settle them: --policy first, majority, prefer or drop, and -o decision.json")


def show_detection(detection: Detection) -> None:
    """Print how many questions each pair of parties shares, and the totals."""
    from collabedit.reporting.table import console

    console().print(_table(detection).rich())
    print(_describe(detection))
    _warn_of_subjects(detection)


def print_shared(updates: Mapping[str, ContributionMetadata]) -> None:
    """Say in one line what contributions have in common, if their fingerprints overlap.

    Raises:
        ContributionError: when the fingerprints were made with different keys.
    """
    from collabedit.privacy import detect as find

    detection = find({party: about for party, about in updates.items() if about.fingerprints})
    if detection.questions:
        print(f"{_describe(detection)}; see collabedit detect")
    _warn_of_subjects(detection)


def _warn_of_subjects(detection: Detection) -> None:
    count = len(detection.subjects)
    if count:
        subjects = "1 subject has" if count == 1 else f"{count} subjects have"
        print(
            f"{subjects} different facts from several parties. Each party finds its change without "
            "the others', so some of these edits may not take; let one party make all edits of a "
            "subject, and check them after merging"
        )


def _check_out(policy: Policy, out: Path | None) -> None:
    decides = policy.value != "report"
    if decides and out is None:
        raise InputError(f"--policy {policy.value} needs -o, where to write the decision")
    if out is not None and not decides:
        raise InputError("-o needs a --policy that decides: first, majority, prefer or drop")


def _describe(detection: Detection) -> str:
    overlaps, conflicts = len(detection.overlaps), len(detection.conflicts)
    return (
        f"{overlaps} {'question overlaps' if overlaps == 1 else 'questions overlap'}, "
        f"{conflicts} {'conflicts' if conflicts == 1 else 'conflict'}"
    )


def _table(detection: Detection) -> Table:
    from collabedit.reporting.table import Column, Row, Table

    parties = list(detection.fingerprints)
    numbers = {party: str(number) for number, party in enumerate(parties, 1)}
    rows: list[Row] = [
        {
            "": number,
            "party": party,
            "edits": len(detection.fingerprints[party]),
            **{numbers[other]: _cell(detection, party, other) for other in parties},
        }
        for party, number in numbers.items()
    ]
    columns = [
        Column.name(""),
        Column.words("party"),
        *(Column.number(key) for key in ("edits", *numbers.values())),
    ]
    return Table.of("", columns, rows, note=_NOTE)


def _cell(detection: Detection, party: str, other: str) -> str:
    overlaps = detection.overlaps_between(party, other)
    conflicts = detection.conflicts_between(party, other)
    return f"{overlaps} / {conflicts}" if overlaps or conflicts else "-"


def _report_decision(detection: Detection, decision: Decision, out: Path) -> None:
    twins = detection.twins
    for party, fingerprints in detection.fingerprints.items():
        count = len(decision.places(fingerprints))
        if party in twins:
            print(f"{party}: the same edits as {twins[party]}; merge without it")
        elif count == len(fingerprints):
            print(f"{party}: leaves out all its edits; merge without it")
        else:
            print(f"{party}: leaves out {count} of {len(fingerprints)} edits")
    print(
        f"{out}: send it to all parties; each contributes with --decision {out.name} "
        "in every exchange, starting with the first"
    )

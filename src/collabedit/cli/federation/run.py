"""``collabedit federation coordinator run``: one round or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.federation.options import (
    CoordinatorOption,
    LeastPartiesOption,
    RoundsOption,
    TimeoutOption,
    WaitOption,
)
from collabedit.cli.options import MemoryOption, RoundOption, read_bytes

if TYPE_CHECKING:
    from collabedit.federation.folder import Settings
    from collabedit.messages import RoundConfig


def run(
    round_file: RoundOption,
    covariance: Annotated[
        Path,
        typer.Option(
            "--covariance", "-C", help="File from 'collabedit stats collect' on the unedited model."
        ),
    ],
    kit: CoordinatorOption = Path("coordinator"),
    out: RoundsOption = Path("rounds"),
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds to run, in turn.")] = 1,
    method: Annotated[str, typer.Option(help="Merge method, case-insensitive.")] = "CollabEdit",
    min_parties: LeastPartiesOption = 2,
    wait: WaitOption = 600,
    timeout: TimeoutOption = 3600,
    on_dropout: Annotated[
        str | None,
        typer.Option(
            help="When a party fails: 'restart', the default, merges again without it, which is "
            "exact for those who remain; 'stop' ends the round with nothing merged. 'continue', "
            "the default under secure aggregation, goes on without it until the first sum is known."
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Compare fingerprints of the parties' edits first, and settle shared ones: "
            "'report' keeps everyone's; 'first' that of the first party by name; 'majority' the "
            "most common one; 'prefer' that of --prefer; 'drop' nobody's in a conflict."
        ),
    ] = None,
    prefer: Annotated[
        str | None, typer.Option(help="Name of the party that --policy prefer gives precedence.")
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(min=0, help="Weight of earlier rounds' keys; the editor's own by default."),
    ] = None,
    memory_budget: MemoryOption = None,
) -> None:
    """Run rounds with the parties that are connected; late ones wait for the next round.

    After an interruption, run it again to continue after the last finished exchange.
    """
    from collabedit.federation.folder import Settings
    from collabedit.messages import RoundConfig, parse_policy
    from collabedit.names import enum_member
    from collabedit.privacy import check_preferred
    from collabedit.rounds import Dropout

    config = RoundConfig.load(round_file)
    dropout = Dropout.RESTART if config.secure_aggregation is None else Dropout.CONTINUE
    if on_dropout is not None:
        dropout = enum_member(Dropout, on_dropout, "value of --on-dropout")
    chosen = None if policy is None else parse_policy(policy)
    check_preferred(chosen, prefer)
    settings = Settings(
        covariance=covariance.resolve(),
        method=method,
        beta=beta,
        min_parties=min_parties,
        on_dropout=dropout,
        timeout=timeout,
        policy=chosen,
        prefer=prefer,
        memory_budget=read_bytes(memory_budget),
    )
    _run(kit, out, config, covariance, settings, rounds, wait)


def _run(
    kit: Path,
    out: Path,
    config: RoundConfig,
    covariance: Path,
    settings: Settings,
    rounds: int,
    wait: float,
) -> None:
    from collabedit.federation.running import (
        next_round,
        open_rounds,
        run_round_on,
        wait_for_parties,
    )
    from collabedit.federation.tables import report_lines
    from collabedit.merging import resolve_method
    from collabedit.messages import Covariance
    from collabedit.transports.flare import require_flare
    from collabedit.transports.flare.jobs import open_session
    from collabedit.transports.flare.kits import Kit

    require_flare()
    admin = Kit.of(kit / "admin", "fed_admin.json")
    resolve_method(settings.method)
    Covariance.load(covariance).check_model(config.covariance_sha256)
    folder = open_rounds(out, config, settings)
    with open_session(admin.folder) as session:
        for number in range(rounds):
            wait_for_parties(session, settings.min_parties, wait)
            report = run_round_on(session, folder, settings.timeout)
            for line in report_lines(folder, report):
                print(line)
            if report.status == "stopped":
                raise typer.Exit(1)
            if number + 1 < rounds:
                folder = next_round(out)

"""``collabedit federation coordinator detect``: what the parties' edits have in common."""

from __future__ import annotations

from pathlib import Path

from collabedit.cli.federation.options import (
    CoordinatorOption,
    LeastPartiesOption,
    RoundsOption,
    TimeoutOption,
    WaitOption,
)
from collabedit.cli.options import RoundOption


def detect(
    round_file: RoundOption,
    kit: CoordinatorOption = Path("coordinator"),
    out: RoundsOption = Path("rounds"),
    min_parties: LeastPartiesOption = 2,
    wait: WaitOption = 600,
    timeout: TimeoutOption = 3600,
) -> None:
    """Begin a round, and show in how many edits the parties overlap or contradict each other.

    It stops there, before anything is measured. 'run' with a --policy continues with the same
    fingerprints.
    """
    from collabedit.cli.detect import show_detection
    from collabedit.federation.folder import Settings
    from collabedit.federation.running import compare_on, open_rounds, wait_for_parties
    from collabedit.messages import RoundConfig
    from collabedit.privacy import detect as find
    from collabedit.transports.flare import require_flare
    from collabedit.transports.flare.jobs import open_session
    from collabedit.transports.flare.kits import Kit

    require_flare()
    admin = Kit.of(kit / "admin", "fed_admin.json")
    config = RoundConfig.load(round_file)
    settings = Settings(min_parties=min_parties, timeout=timeout, compare_only=True)
    folder = open_rounds(out, config, settings)
    with open_session(admin.folder) as session:
        wait_for_parties(session, min_parties, wait)
        announced = compare_on(session, folder, timeout)
    detection = find(announced)
    show_detection(detection)
    if detection.questions:
        print(
            "To settle them: collabedit federation coordinator run --policy first, majority, "
            "prefer or drop"
        )

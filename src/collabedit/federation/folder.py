"""What a coordinator keeps of a federation's rounds: a folder for each round."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from collabedit.errors import InputError, one_line
from collabedit.files import read_json, utc_now, write_json
from collabedit.messages import (
    Contribution,
    ContributionMetadata,
    Decision,
    Evaluation,
    Hits,
    Policy,
    RoundConfig,
    RoundState,
)
from collabedit.messages.evaluation import Kind
from collabedit.rounds import Dropout

__all__ = ["Report", "RoundFolder", "Settings", "SharedEdits", "Status"]

Status = Literal["accepted", "rolled back", "stopped"]


class Settings(BaseModel):
    """How a coordinator runs the rounds of a folder.

    Attributes:
        covariance: file of the unedited model's second moments; needed once something is merged.
        method: how to merge.
        beta: weight of earlier rounds' keys in the prior; by default, the editor's own.
        min_parties: with fewer, a round stops.
        on_dropout: what happens when a party fails.
        timeout: how long an exchange waits for answers, in seconds.
        memory_budget: bytes that the priors may take; by default, whatever is fastest.
        policy: whose edit stays when several parties answer the same question; ``None`` if edits
            are not compared.
        prefer: the party that ``Policy.PREFER`` names.
        compare_only: stop before the decision, so that people can look at what is shared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    covariance: Path | None = None
    method: str = "CollabEdit"
    beta: float | None = Field(default=None, ge=0)
    min_parties: int = Field(default=2, ge=1)
    on_dropout: Dropout = Dropout.RESTART
    timeout: float = Field(default=3600, ge=1)
    memory_budget: int | None = Field(default=None, ge=1)
    policy: Policy | None = None
    prefer: str | None = None
    compare_only: bool = False


class SharedEdits(BaseModel):
    """What the parties' edits had in common, and what was decided; only counts.

    Attributes:
        policy: the policy that decided.
        overlaps: number of questions to which a target was given twice.
        conflicts: number of questions to which different targets were given.
        subjects: number of subjects about which parties edited different facts.
        edits: by party, how many it announced.
        kept: by party, how many of them it keeps.
    """

    model_config = ConfigDict(frozen=True)

    policy: Policy
    overlaps: int
    conflicts: int
    subjects: int
    edits: dict[str, int]
    kept: dict[str, int]

    @property
    def parties_without_edits(self) -> list[str]:
        """Parties whose edits others hold: they send nothing but still get the delta."""
        return [party for party, count in self.kept.items() if not count]


class Report(BaseModel):
    """The outcome of a round; it names parties, and holds nothing about an edit.

    Attributes:
        status: how it ended.
        reason: why, if it was not accepted.
        round_sha256: the round.
        schedule: the round's.
        parties: whose edits are merged.
        left_out: by party, why it is not among them.
        edits: number of edits.
        shared: what the parties' edits had in common; ``None`` if they were not compared.
        hits: by kind of prompt, over all parties that voted.
        votes: by party.
        sent: number of bytes sent to the parties.
        received: number of bytes received from them.
        seconds: from the opening to the end; if the round was continued, of the last run only.
        next_sha256: SHA-256 of each edited weight at the start of the next round.
    """

    model_config = ConfigDict(frozen=True)

    status: Status
    reason: str = ""
    round_sha256: str
    schedule: str
    parties: tuple[str, ...] = ()
    left_out: dict[str, str] = Field(default_factory=dict)
    edits: int = 0
    shared: SharedEdits | None = None
    hits: dict[Kind, Hits] = Field(default_factory=dict)
    votes: dict[str, Evaluation] = Field(default_factory=dict)
    sent: int = 0
    received: int = 0
    seconds: float = 0.0
    next_sha256: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class RoundFolder:
    """One round's files: ``round.json``, the ledger, the delta, the report and the events.

    If edits are compared, also ``decision.json`` and, for ``collabedit detect``, each party's
    ``fingerprints/PARTY.safetensors``.

    Attributes:
        path: the folder, ``.../round_001``; the settings are stored beside it.
    """

    path: Path

    @classmethod
    def all_in(cls, rounds: Path) -> list[RoundFolder]:
        """The rounds in a coordinator's folder, in order."""
        return [cls(path.parent) for path in sorted(rounds.glob("round_*/round.json"))]

    @classmethod
    def begin(cls, rounds: Path, config: RoundConfig) -> RoundFolder:
        """Create the next round's folder."""
        folder = cls(rounds / f"round_{len(cls.all_in(rounds)) + 1:03}")
        folder.path.mkdir(parents=True, exist_ok=True)
        config.save(folder.path / "round.json")
        return folder

    @property
    def settings(self) -> Settings:
        """How the coordinator runs it.

        Raises:
            InputError: when the file is malformed.
        """
        path = self.path.parent / "settings.json"
        try:
            return Settings.model_validate(read_json(path, "settings"))
        except ValidationError as error:
            raise InputError(f"{path}: {one_line(error)}") from None

    @property
    def config(self) -> RoundConfig:
        """The round."""
        return RoundConfig.load(self.path / "round.json")

    @property
    def before(self) -> RoundState:
        """The state after earlier rounds, as the last accepted one left it."""
        number = int(self.path.name.removeprefix("round_"))
        for earlier in range(number - 1, 0, -1):
            state = self.path.parent / f"round_{earlier:03}" / "state.safetensors"
            if state.is_file():
                return RoundState.load(state)
        return RoundState()

    @property
    def fingerprints(self) -> dict[str, ContributionMetadata] | None:
        """By party, what it announced about its edits; ``None`` until all have."""
        folder = self.path / "fingerprints"
        if not folder.is_dir():
            return None
        files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stem)
        return {path.stem: ContributionMetadata.load(path) for path in files}

    def keep_fingerprints(self, announced: Mapping[str, Contribution]) -> None:
        """Write what the parties announced, all of it or nothing."""
        part = self.path / "fingerprints.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for party, sent in announced.items():
            sent.save(part / f"{party}.safetensors")
        part.rename(self.path / "fingerprints")

    @property
    def decision(self) -> Decision | None:
        """The decision about shared edits, if there is one."""
        path = self.path / "decision.json"
        return Decision.load(path) if path.is_file() else None

    @property
    def report(self) -> Report | None:
        """The outcome, once the round has ended."""
        path = self.path / "report.json"
        if not path.is_file():
            return None
        try:
            return Report.model_validate(read_json(path, "report"))
        except ValidationError as error:
            raise InputError(f"{path}: {one_line(error)}") from None

    def finish(self, report: Report) -> None:
        """Write the report, which ends the round."""
        write_json(self.path / "report.json", report.model_dump(mode="json"))

    def tell(self, event: str, **about: Any) -> None:
        """Append a line to the log of events; it holds names, numbers and digests."""
        line = json.dumps({"time": utc_now(), "event": event, **about}, ensure_ascii=False)
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def events(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """The events so far, skipping the first ``after``."""
        path = self.path / "events.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
        for line in lines[after:]:
            yield json.loads(line)

    def wait(self, seconds: float) -> Report | None:
        """Wait for the report."""
        end = time.monotonic() + seconds
        while (report := self.report) is None and time.monotonic() < end:
            time.sleep(0.2)
        return report

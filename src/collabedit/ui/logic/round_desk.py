"""A round by files, seen by the coordinator: the files received, their faults, and the merge.

Files are read as safetensors, whose header and arrays are checked before they are used; nothing
that a party sent is ever unpickled or run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collabedit.errors import CollabEditError, ContributionError, InputError, RoundError
from collabedit.files import check_output_file, tensor_metadata
from collabedit.merging import Merges, merge_methods, resolve_method
from collabedit.messages import Contribution, Delta, RoundConfig
from collabedit.privacy import Detection, detect
from collabedit.rounds import Ledger, RoundFiles, merge_deltas
from collabedit.ui.logic.jobs import Job, Jobs

__all__ = ["RoundDesk", "RoundReview", "Sent"]

#: Suffix of the files that are looked for in a folder.
_SUFFIX = ".safetensors"
_DELTA = "collabedit.delta"
_CONTRIBUTIONS = ("collabedit.contribution", "collabedit.update")


@dataclass(frozen=True)
class Sent:
    """A file that has been received.

    Attributes:
        path: its path.
        party: the party's name for itself; empty if it gives none, and for deltas.
        edits: number of its edits; 0 if the file can't be read.
        what: ``contribution``, ``delta``, or empty.
        size: bytes of the file.
        fault: why it can't be merged, one line; empty if it can.
    """

    path: Path
    party: str = ""
    edits: int = 0
    what: str = ""
    size: int = 0
    fault: str = ""

    @property
    def name(self) -> str:
        """The party's name on the page."""
        return self.party or self.path.stem


@dataclass(frozen=True)
class RoundReview:
    """The state of a round.

    Attributes:
        about: the round, in one line; empty without a round file.
        problem: what prevents merging altogether, one line; empty if nothing does.
        sent: the files, in the order in which they arrived.
        absent: parties of the earlier exchanges that have sent nothing yet.
        in_common: what the contributions' fingerprints have in common, in one line; empty if
            there are none.
    """

    about: str = ""
    problem: str = ""
    sent: tuple[Sent, ...] = ()
    absent: tuple[str, ...] = ()
    in_common: str = ""

    @property
    def hindrance(self) -> str:
        """Why the files can't be merged now; empty if they can."""
        if self.problem:
            return self.problem
        if not self.sent:
            return "No contribution has arrived yet"
        faulty = sum(bool(file.fault) for file in self.sent)
        if faulty:
            them = "file does not fit; remove or replace it"
            if faulty > 1:
                them = "files do not fit; remove or replace them"
            return f"{faulty} {them}"
        if self.absent:
            return f"Still missing: {', '.join(self.absent)}"
        return ""


@dataclass
class RoundDesk:
    """The model behind the Rounds tab.

    Attributes:
        jobs: where the merge runs.
        round_file: path of ``round.json``; empty for finished deltas.
        covariance: path of the second moments; likewise.
        delta: path of the delta of the last exchange in a layerwise round; empty in the first.
        state: path of the state between rounds, if there are several.
        method: name of the merge method.
        files: paths of the files received.
        merged: the file that the last merge wrote, and its delta.
        news: the outcome of the last merge, one line each.
    """

    jobs: Jobs
    round_file: str = ""
    covariance: str = ""
    delta: str = ""
    state: str = ""
    method: str = "CollabEdit"
    files: list[Path] = field(default_factory=list)
    merged: tuple[Path, Delta] | None = None
    news: tuple[str, ...] = ()

    def add(self, given: str | Path) -> int:
        """Add a file, or all safetensors files of a folder.

        Returns:
            How many files were added.

        Raises:
            InputError: when there is no such file, or all have already been added.
        """
        path = Path(given).expanduser()
        if not str(given).strip() or not path.exists():
            raise InputError(f"there is no file or folder at {str(given)!r}")
        files = sorted(path.glob(f"*{_SUFFIX}")) if path.is_dir() else [path]
        known = {os.path.realpath(file) for file in self.files}
        fresh = [file for file in files if os.path.realpath(file) not in known]
        if not fresh:
            reason = "has already been added" if files else f"contains no {_SUFFIX} file"
            raise InputError(f"{path} {reason}")
        self.files += fresh
        return len(fresh)

    def remove(self, path: Path) -> None:
        """Remove a file from the list; it stays on disk."""
        self.files = [file for file in self.files if file != path]

    def methods(self) -> dict[str, str]:
        """Merge methods by name, each with a line about it."""
        return {method.name: method.summary for method in merge_methods()}

    def review(self) -> RoundReview:
        """Read the round and all files again, and check each against the others.

        A fault in one file is reported for that file and does not affect the others.
        """
        try:
            config = self._config()
            ledger = self._ledger(config)
        except CollabEditError as error:
            unjudged = tuple(_read(path)[0] for path in self.files)
            return RoundReview(problem=str(error), sent=unjudged)
        about = "" if config is None else _about(config, ledger)
        read = [_read(path) for path in self.files]
        sent = [file for file, _ in read]
        contributions = {
            str(file.path): message for file, message in read if isinstance(message, Contribution)
        }
        if config is None:
            return self._review_deltas(sent)
        assert ledger is not None
        faults, problem, absent = _check(config, ledger, contributions)
        if not problem and not _path(self.covariance).is_file():
            problem = "Name the covariance file that 'collabedit stats collect' wrote"
        judged = tuple(_judged(file, faults.get(str(file.path), "")) for file in sent)
        fit = {name: part for name, part in contributions.items() if name not in faults}
        try:
            shared = _in_common(fit)
        except ContributionError as error:
            shared = str(error)
        return RoundReview(about, problem, judged, absent, shared)

    def merge(self, out: str) -> Job:
        """Begin to merge all files received, as ``collabedit merge`` does.

        Args:
            out: the delta file to write.

        Raises:
            InputError: when the files or the settings are unusable, or another job is running.
        """
        if not out.strip():
            raise InputError("name the delta file to write, such as delta.safetensors")
        target = Path(out.strip()).expanduser()
        if target.suffix.lower() != _SUFFIX:
            raise InputError(f"{target}: the name of a delta file must end in {_SUFFIX}")
        check_output_file(target)
        review = self.review()
        if review.hindrance:
            raise InputError(review.hindrance)
        files = list(self.files)
        return self.jobs.start(
            f"Merging {len(files)} files by {self.method}", lambda: self._merge(files, target)
        )

    def _config(self) -> RoundConfig | None:
        if not self.round_file.strip():
            return None
        config = RoundConfig.load(_path(self.round_file))
        if config.secure_aggregation is not None:
            raise InputError(
                "this round uses secure aggregation, with five steps per exchange; merge it with "
                "'collabedit merge'"
            )
        return config

    def _ledger(self, config: RoundConfig | None) -> Ledger | None:
        if config is None:
            return None
        files = self._round()
        if not self.delta.strip():
            return Ledger(Delta.empty(config, self.method, {}))
        return files.ledger(_path(self.delta))

    def _round(self) -> RoundFiles:
        state = _path(self.state) if self.state.strip() else None
        return RoundFiles(_path(self.round_file), _path(self.covariance), state)

    def _review_deltas(self, sent: Sequence[Sent]) -> RoundReview:
        contributions = any(file.what == "contribution" for file in sent)
        if contributions:
            problem = "Name the round file that the contributions belong to"
            return RoundReview(problem=problem, sent=tuple(sent))
        deltas = any(file.what == "delta" for file in sent)
        if deltas and resolve_method(self.method).merges is not Merges.UPDATES:
            problem = (
                f"{self.method} merges contributions, not finished deltas; name a round, or choose "
                "another method"
            )
            return RoundReview(problem=problem, sent=tuple(sent))
        return RoundReview(sent=tuple(sent))

    def _merge(self, files: Sequence[Path], target: Path) -> tuple[str, ...]:
        method = resolve_method(self.method)
        if not self.round_file.strip():
            merged = merge_deltas({str(path): Delta.load(path) for path in files}, method)
            merged.save(target)
            return self._done(merged, target)
        by_files = self._round()
        so_far = _path(self.delta) if self.delta.strip() else None
        coordinator = by_files.coordinator(method, delta=so_far)
        merged = coordinator.merge({str(path): Contribution.load(path) for path in files})
        merged.save(target)
        line = by_files.keep(coordinator)
        news = [] if line is None else [line]
        if by_files.config.gate is not None and merged.metadata.complete:
            news.append(
                "Each party votes with 'collabedit round vote'; then 'collabedit round decide' "
                "counts the votes"
            )
        return self._done(merged, target, *news)

    def _done(self, merged: Delta, target: Path, *more: str) -> tuple[str, ...]:
        about = merged.metadata
        layers = ", ".join(map(str, about.layers))
        parties = f"{about.parties} part{'y' if about.parties == 1 else 'ies'}"
        edits = f"{about.edits} edit{'' if about.edits == 1 else 's'}"
        news = [f"{target}: {edits} of {parties} by {about.method}, layers {layers}", *more]
        if about.complete:
            news.append("The round is complete")
            self.delta = ""
        else:
            news.append(
                f"Send {target.name} to the parties: each runs 'collabedit contribute' again with "
                f"--delta {target.name}"
            )
            self.delta = str(target)
        self.files = []
        self.merged, self.news = (target, merged), tuple(news)
        return self.news


def _path(text: str) -> Path:
    return Path(text.strip()).expanduser()


def _read(path: Path) -> tuple[Sent, Contribution | Delta | None]:
    """A file and its content, fully checked; anything wrong becomes its fault."""
    try:
        size = path.stat().st_size
        kind = tensor_metadata(path, "file").get("format")
        if kind == _DELTA:
            delta = Delta.load(path)
            delta.require_complete()
            return Sent(path, edits=delta.metadata.edits, what="delta", size=size), delta
        if kind not in _CONTRIBUTIONS:
            raise InputError("neither a contribution nor a delta")
        sent = Contribution.load(path)
    except OSError as error:
        return Sent(path, fault=error.strerror or str(error)), None
    except CollabEditError as error:
        return Sent(path, fault=str(error).removeprefix(f"{path}: ")), None
    about = sent.metadata
    return Sent(path, about.party, about.edits, "contribution", size), sent


def _judged(sent: Sent, fault: str) -> Sent:
    if not sent.fault and sent.what == "delta":
        fault = "a finished delta, not a contribution; leave the round file empty to merge deltas"
    return (
        sent if sent.fault else Sent(sent.path, sent.party, sent.edits, sent.what, sent.size, fault)
    )


def _check(
    config: RoundConfig, ledger: Ledger, contributions: Mapping[str, Contribution]
) -> tuple[dict[str, str], str, tuple[str, ...]]:
    """Faults by file, a problem of the round, and the parties that are still missing."""
    delta = ledger.delta
    layers = config.pending_layers(len(delta.changes))
    if not layers:
        return {}, "The round is complete: all its layers are merged", ()
    faults: dict[str, str] = {}
    for name, sent in contributions.items():
        try:
            sent.check(config, delta.sha256, layers)
        except ContributionError as error:
            faults[name] = str(error)
    fit = {name: sent for name, sent in contributions.items() if name not in faults}
    while fit:
        try:
            ledger.check_parties(fit)
            break
        except ContributionError as error:  # one at a time: the check ends with the first
            party = error.party or ""
            faults[party] = str(error).removeprefix(f"{party}: ")
            del fit[party]
        except RoundError:
            break
    return faults, "", _absent(ledger, fit)


def _absent(ledger: Ledger, contributions: Mapping[str, Contribution]) -> tuple[str, ...]:
    """Parties of the first exchange that have sent nothing yet."""
    if not ledger.exchanges:
        return ()
    received = {sent.metadata.commitment for sent in contributions.values()}
    return tuple(
        entry.party for entry in ledger.exchanges[0].entries if entry.commitment not in received
    )


def _in_common(contributions: Mapping[str, Contribution]) -> str:
    detection = detect(
        {name: sent.metadata for name, sent in contributions.items() if sent.metadata.fingerprints}
    )
    return _described(detection) if detection.fingerprints else ""


def _described(detection: Detection) -> str:
    overlaps, conflicts = len(detection.overlaps), len(detection.conflicts)
    if not overlaps and not conflicts:
        return "Their fingerprints have nothing in common"
    shared = f"{overlaps} question{' has' if overlaps == 1 else 's have'} the same answer"
    return (
        f"{shared} more than once, {conflicts} conflicting ones; 'collabedit detect' settles them"
    )


def _about(config: RoundConfig, ledger: Ledger | None) -> str:
    done = 0 if ledger is None else len(ledger.delta.changes)
    layers = config.layers
    waits = config.pending_layers(done)
    spread = f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
    now = f"; waits for layer {waits[0]}" if len(waits) == 1 and len(layers) > 1 else ""
    return f"A {config.schedule.value} {config.editor} round on {config.model}, {spread}{now}"

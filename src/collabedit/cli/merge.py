"""``collabedit merge``: the coordinator's part of a round by files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collabedit.cli.detect import print_shared
from collabedit.cli.options import (
    AfterMergeOption,
    MemoryOption,
    SoFarOption,
    own_betas,
    read_bytes,
    read_decimals,
    read_steps,
    spread,
)
from collabedit.cli.secure import next_step

if TYPE_CHECKING:
    from collabedit.algebra import LowRankUpdate
    from collabedit.merging import AfterMergeStep, MergeMethod
    from collabedit.messages import Delta, RoundConfig
    from collabedit.rounds import Coordinator, RoundFiles


#: Formats that can be merged, including those of version 1.
_MERGED = ("collabedit.contribution", "collabedit.update", "collabedit.delta")


def merge(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Contributions of one exchange; or finished deltas, for SA, TA, TIES ..."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The delta file to write.")],
    round_file: Annotated[
        Path | None, typer.Option("--round", help="The round.json; required for contributions.")
    ] = None,
    covariance: Annotated[
        Path | None,
        typer.Option(
            "--covariance", "-C", help="File from 'collabedit stats collect' on the unedited model."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="Merge method, case-insensitive.")] = "CollabEdit",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="An option of the method, such as keep=0.1; repeatable."),
    ] = None,
    party_weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="The weight of each file, in order, such as 3,1,2; for methods that weight "
            "the parties (WSA). By default, their numbers of edits.",
        ),
    ] = None,
    delta: SoFarOption = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Several rounds: the state between them, read if it exists and written "
            "when the round is complete (with a gate, 'round decide' writes it). The next "
            "round starts with 'collabedit round new --state'."
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --state: weight of earlier rounds' keys in the prior; 0 is the static "
            f"covariance. The editor's own by default ({own_betas()}).",
        ),
    ] = None,
    after_merge: AfterMergeOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="With --after-merge: the model before this round, if not the one it names.",
        ),
    ] = None,
    memory_budget: MemoryOption = None,
) -> None:
    """Merge the parties' contributions into one delta; for the coordinator.

    In a layerwise round each exchange merges one layer: give the result as --delta to the next
    'contribute' and 'merge', until this command says that the round is complete. A ledger of the
    round is kept beside round.json, as ROUND.ledger.safetensors: keep it private.

    Under secure aggregation an exchange has five steps: each call takes the parties' answers to one
    step and writes the request for the next; the last one writes the delta.

    The steps of --after-merge need the weights that the delta is added to, and run once all
    layers are merged. Given a single finished delta, the command runs only these steps.
    """
    from collabedit.errors import InputError
    from collabedit.files import tensor_metadata
    from collabedit.merging import resolve_method
    from collabedit.messages import Delta
    from collabedit.rounds import RoundFiles, merge_deltas

    chosen = resolve_method(method)
    options = _read_options(chosen, option or [])
    finish = _Finish(read_steps(after_merge), model)
    shares = None if party_weights is None else read_decimals(party_weights, "--weights")
    if shares is not None:
        chosen.check_weights(shares, len(inputs))
    _refuse_twice(inputs)
    if round_file is not None and _is_secure(round_file):
        if covariance is None:
            raise InputError("merging contributions needs --round and --covariance")
        by_files = RoundFiles(round_file, covariance, state, beta, read_bytes(memory_budget))
        coordinator = by_files.coordinator(chosen, options, delta)
        merged = next_step(coordinator, round_file, inputs, out)
        if merged is not None:
            _write(by_files, finish, coordinator, merged, out)
        return
    formats = {path: tensor_metadata(path, "input").get("format") for path in inputs}
    for path, format_ in formats.items():
        if format_ not in _MERGED:
            raise InputError(f"{path}: neither a contribution nor a delta")
    if set(formats.values()) == {"collabedit.delta"}:
        deltas = {str(path): Delta.load(path) for path in inputs}
        alone = len(deltas) == 1 and finish.steps
        result = deltas[str(inputs[0])] if alone else merge_deltas(deltas, chosen, options, shares)
        result = finish.applied(result)
        result.save(out)
        _report(result, out)
    elif round_file is None or covariance is None:
        raise InputError("merging contributions needs --round and --covariance")
    else:
        by_files = RoundFiles(round_file, covariance, state, beta, read_bytes(memory_budget))
        coordinator = by_files.coordinator(chosen, options, delta)
        result = _merge_files(coordinator, inputs, shares)
        _write(by_files, finish, coordinator, result, out)


def _is_secure(round_file: Path) -> bool:
    from collabedit.messages import RoundConfig

    return RoundConfig.load(round_file).secure_aggregation is not None


def _refuse_twice(inputs: list[Path]) -> None:
    from collabedit.errors import InputError

    files: set[str] = set()
    for path in inputs:
        file = os.path.realpath(path)
        if file in files:
            raise InputError(f"{path}: given twice; give each file once")
        files.add(file)


@dataclass(frozen=True)
class _Finish:
    """The steps that run once all layers are merged, and where their weights come from."""

    steps: tuple[AfterMergeStep, ...]
    model: str | None

    def __post_init__(self) -> None:
        from collabedit.errors import InputError

        if self.model is not None and not self.steps:
            raise InputError("--model is for --after-merge, which needs the weights; remove it")

    def applied(self, delta: Delta, earlier: Mapping[str, LowRankUpdate] | None = None) -> Delta:
        """The delta after the steps; the weights are read only if there are any."""
        from collabedit.models import load_model
        from collabedit.parties.applying import weights_of

        if not self.steps:
            return delta
        about = delta.metadata
        loaded = load_model(self.model or about.model, dtype=about.dtype)
        return delta.after(self.steps, weights_of(loaded, delta), earlier)


def _write(
    by_files: RoundFiles, finish: _Finish, coordinator: Coordinator, merged: Delta, out: Path
) -> None:
    """Write the delta, and the round's ledger and state."""
    complete = not coordinator.pending_layers
    result = finish.applied(merged, by_files.earlier) if complete else merged
    result.save(out)
    line = by_files.keep(coordinator, result)
    if line is not None:
        print(line)
    _report(result, out, by_files.config)
    if finish.steps and not complete:
        print("--after-merge runs once all layers are merged; give it with the last exchange")


def _merge_files(
    coordinator: Coordinator, inputs: list[Path], shares: tuple[float, ...] | None
) -> Delta:
    from collabedit.messages import Contribution

    contributions = {str(path): Contribution.load(path) for path in inputs}
    merged = coordinator.merge(contributions, shares)
    print_shared({party: sent.metadata for party, sent in contributions.items()})
    return merged


def _read_options(method: MergeMethod, pairs: list[str]) -> dict[str, str]:
    from collabedit.merging.options import parse_options

    options = parse_options(pairs, "--option")
    method.checked(options)
    return options


def _report(result: Delta, out: Path, config: RoundConfig | None = None) -> None:
    about = result.metadata
    methods = ", then ".join(map(str, (about.method, *about.after_merge)))
    print(
        f"{out}: {about.edits} edits of {about.parties} parties by {methods}, "
        f"layers {spread(about.layers)}"
    )
    if about.complete and config is not None and config.gate is not None:
        print(
            f"The round is complete. Each party votes: collabedit round vote {out} --round ROUND "
            "-r EDITS -o VOTE"
        )
        print("Then the coordinator counts the votes: collabedit round decide VOTES --round ROUND")
    elif about.complete:
        print(f"The round is complete: collabedit apply --model {about.model} {out} -o DIR")
        print(f"Each party can see which edits took: collabedit ask {out} --requests EDITS")
    else:
        print(f"Not complete yet: each party runs 'collabedit contribute' again with --delta {out}")

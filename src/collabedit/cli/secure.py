"""Secure aggregation by files: ``contribute`` and ``merge`` in such a round."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collabedit.algebra import Factors
    from collabedit.messages import Delta, Request, RoundConfig, SecureAggregation
    from collabedit.parties import Party
    from collabedit.privacy.secure import Answer, SecureParty, Summation
    from collabedit.rounds import Coordinator

__all__ = ["answer", "next_step", "open_request", "require_roster", "secure_section"]


def secure_section(
    roster: Path | None, threshold: int | None, max_edits: int | None, form: str
) -> SecureAggregation:
    """Settings of secure aggregation for ``round new``.

    Raises:
        InputError: when an option is missing or out of range.
    """
    from pydantic import ValidationError

    from collabedit.errors import InputError, one_line
    from collabedit.messages import SecureAggregation
    from collabedit.privacy.secure import load_roster

    if roster is None or max_edits is None:
        raise InputError("--secure-aggregation needs --roster and --max-edits")
    if form not in ("auto", "dense", "sketched"):
        raise InputError(f"--sum-form must be auto, dense or sketched, found {form!r}")
    keys = load_roster(roster)
    least = 2 * len(keys) // 3 + 1 if threshold is None else threshold
    try:
        return SecureAggregation(
            roster=keys,
            threshold=least,
            max_edits=max_edits,
            form=form,  # type: ignore[arg-type]
        )
    except ValidationError as error:
        raise InputError(f"--secure-aggregation: {one_line(error)}") from None


def open_request(config: RoundConfig, path: Path | None) -> Request:
    """The coordinator's request in a file; without one, the first step of a summation.

    Raises:
        RoundError: when it belongs to another round, or is not a step of a summation.
    """
    from collabedit.errors import RoundError
    from collabedit.messages import SUMMATION_STEPS, Delta, Request, RequestKind

    if path is None:
        return Request(RequestKind.ADVERTISE, Delta.empty(config))
    request = Request.load(path)
    request.delta.check_round(config)
    if request.kind not in SUMMATION_STEPS:
        raise RoundError(
            f"{path}: the coordinator asks for '{request.kind.value}', which is not a step of "
            "secure aggregation; refused"
        )
    return request


def require_roster(identity: Path | None, roster: Path | None) -> None:
    """Check that a party that takes part in sums has its own list of keys.

    Raises:
        InputError: when it would have to trust the coordinator's list.
    """
    from collabedit.errors import InputError

    if identity is not None and roster is None:
        raise InputError(
            "--identity needs --roster: the parties' public keys, which you got through a channel "
            "that the coordinator does not control"
        )


def answer(
    config: RoundConfig,
    request: Request,
    identity_file: Path,
    roster_file: Path | None,
    make_party: Callable[[SecureParty], Party],
    confirming: Callable[[str, Sequence[str]], None],
    out: Path,
) -> None:
    """Answer one step of a summation, and record it in the user's cache.

    Args:
        config: the round.
        request: the coordinator's request.
        identity_file: the party's identity.
        roster_file: the roster as the party knows it.
        make_party: loads the model and measures; called only in the step that needs it.
        confirming: called with the party's name and the parties in the sum, before the party
            confirms the sum.
        out: the answer to write.
    """
    from collabedit.files import check_output_file, read_json, write_private_text
    from collabedit.messages import SUMMATION_STEPS, RequestKind
    from collabedit.privacy.secure import Identity, PartyState, SecureParty, load_roster

    check_output_file(out)
    identity = Identity.load(identity_file)
    memory = _memory(config, identity.party)
    state = PartyState.checked(read_json(memory, "state"), str(memory)) if memory.exists() else None
    ours = SecureParty(
        identity,
        config,
        roster=None if roster_file is None else load_roster(roster_file),
        state=state,
    )
    if request.kind is RequestKind.MASK:
        reply = make_party(ours).answer(request.to_bytes())
    else:
        reply = ours.answer(request, _no_statistics)
    if request.kind is RequestKind.CONFIRM:
        confirming(ours.name, ours.state.survivors)
    write_private_text(memory, ours.state.model_dump_json())  # before anything is sent
    _write(out, reply)
    step = f"step {1 + SUMMATION_STEPS.index(request.kind)} of {len(SUMMATION_STEPS)}"
    print(f"{out}: {step} ('{request.kind.value}'), no text; send it to the coordinator")


def _no_statistics() -> tuple[Mapping[str, Factors], int, str]:
    raise AssertionError("only the step 'mask' measures")


def _memory(config: RoundConfig, party: str) -> Path:
    from collabedit.files import cache_directory, sha256_of_json

    return cache_directory("secure") / f"{sha256_of_json([config.sha256, party])}.json"


def _write(path: Path, content: bytes) -> None:
    from collabedit.files import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def next_step(
    coordinator: Coordinator, round_file: Path, inputs: list[Path], out: Path
) -> Delta | None:
    """Take the parties' answers to a step; write the next request, or return the delta.

    The summation is kept beside the round file, as ``ROUND.summation.safetensors``.

    Raises:
        RoundError: when an answer is refused, which names the file, or there are too few.
    """
    from collabedit.errors import RoundError
    from collabedit.files import save_tensors

    kept = round_file.with_suffix(".summation.safetensors")
    summation = _summation(coordinator, kept, inputs)
    if summation.delta.sha256 != coordinator.delta.sha256:
        raise RoundError(
            "the summation builds on another delta; give the --delta that 'collabedit merge' "
            "wrote last"
        )
    summation.advance(_read(summation, path) for path in inputs)  # one in memory at a time
    if summation.step is None:
        delta = coordinator.merge_sum(summation.result())
        kept.unlink(missing_ok=True)
        return delta
    save_tensors(kept, *summation.pack())
    summation.request().save(out)
    _report(summation, round_file, len(inputs), out)
    return None


def _read(summation: Summation, path: Path) -> Answer:
    from collabedit.errors import RoundError

    try:
        return summation.read(None, path.read_bytes())
    except RoundError as error:
        raise RoundError(str(error), party=str(path)) from None


def _summation(coordinator: Coordinator, kept: Path, answers: list[Path]) -> Summation:
    """The summation in progress, or a new one if the answers start it."""
    from collabedit.errors import RoundError
    from collabedit.files import load_tensors
    from collabedit.privacy.secure import Summation

    if all(_format(path) == "collabedit.advert" for path in answers):
        return coordinator.summation()
    if not kept.is_file():
        raise RoundError(
            f"{kept}, which records the earlier steps, is missing; put it back beside the round "
            "file, or start again from the parties' first answers"
        )
    return Summation.resume(coordinator.config, *load_tensors(kept, "summation"), str(kept))


def _format(path: Path) -> str | None:
    with path.open("rb") as stream:
        if stream.read(1) != b"{":  # masked numbers, which are not worth parsing as text
            return None
    try:
        values = json.loads(path.read_bytes())
    except ValueError:
        return None
    return values.get("format") if isinstance(values, dict) else None


def _report(summation: Summation, round_file: Path, parties: int, out: Path) -> None:
    from collabedit.messages import SUMMATION_STEPS

    assert summation.step is not None
    step = f"step {1 + SUMMATION_STEPS.index(summation.step)} of {len(SUMMATION_STEPS)}"
    print(f"{out}: {step} ('{summation.step.value}') for {parties} parties")
    print(
        f"Send it to them; each runs: collabedit contribute --round {round_file} --requests FILE "
        f"--identity KEY --answer {out} -o ANSWER"
    )

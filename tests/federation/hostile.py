"""What a hostile party sends, by name; within a test, or in a party's own process.

``install`` makes a party's process hostile; the ``sitecustomize`` that its client starts with calls
it. The file in ``COLLABEDIT_HOSTILE`` names what is sent, so that one client can send all of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from collabedit.algebra import Factors
from collabedit.errors import CollabEditError
from collabedit.messages import Contribution, Request, RequestKind

__all__ = ["SPOILED", "contribution", "header", "install", "longer", "put", "wider"]

VARIABLE = "COLLABEDIT_HOSTILE"


def contribution(change: Callable[[Contribution], None]) -> Callable[[bytes], bytes]:
    def changed(reply: bytes) -> bytes:
        sent = Contribution.from_bytes(reply)
        change(sent)
        return sent.to_bytes()

    return changed


def put(value: float) -> Callable[[Contribution], None]:
    def change(sent: Contribution) -> None:
        for factors in sent.statistics.values():
            factors.keys[0, 0] = value

    return change


def header(**changes: object) -> Callable[[bytes], bytes]:
    def changed(reply: bytes) -> bytes:
        sent = Contribution.from_bytes(reply)
        return Contribution(sent.metadata.model_copy(update=changes), sent.statistics).to_bytes()

    return changed


def wider(reply: bytes) -> bytes:
    sent = Contribution.from_bytes(reply)
    grown = {
        name: type(f)(torch.cat([f.keys, f.keys]), f.residuals)
        for name, f in sent.statistics.items()
    }
    return Contribution(sent.metadata, grown).to_bytes()


def longer(reply: bytes) -> bytes:
    """Ten times the announced size."""
    sent = Contribution.from_bytes(reply)
    grown = {
        name: Factors(f.keys.repeat(1, 100), f.residuals.repeat(1, 100))
        for name, f in sent.statistics.items()
    }
    return Contribution(sent.metadata.model_copy(update={"edits": 200}), grown).to_bytes()


#: What is sent instead of a contribution, and why it is refused; the arguments are all honest ones
#: so far, including those of earlier rounds.
SPOILED: dict[str, tuple[Callable[[Sequence[bytes]], bytes], str]] = {
    "NaN": (lambda sent: contribution(put(float("nan")))(sent[-1]), "NaN or infinite"),
    "infinity": (lambda sent: contribution(put(float("inf")))(sent[-1]), "NaN or infinite"),
    "wrong shapes": (lambda sent: wider(sent[-1]), "keys and residuals are 96 and 32 wide"),
    "ten times the size": (lambda sent: longer(sent[-1]), "edits take at most"),
    "another round's": (lambda sent: sent[0], "another round"),
    "the same twice": (lambda sent: sent[-2], "another state of the round"),
    "no message": (lambda sent: b"\x80\x04\x95 looks like a pickle.", "not a safetensors file"),
}


def install() -> None:
    """Make every party in this process spoil its contributions as the file says."""
    from collabedit.federation.member import Member

    mode = Path(os.environ[VARIABLE])
    honest = Member.answer

    def answer(self: Member, request: bytes) -> bytes:
        reply = honest(self, request)
        if not _contributes(request):
            return reply
        sent = _remembered(mode.parent / "sent", reply)
        name = mode.read_text()
        later = name != "the same twice" or Request.from_bytes(request).delta.changes
        return SPOILED[name][0](sent) if name in SPOILED and later else reply

    Member.answer = answer  # type: ignore[method-assign]


def _contributes(request: bytes) -> bool:
    try:
        return Request.from_bytes(request).kind is RequestKind.CONTRIBUTE
    except CollabEditError:
        return False


def _remembered(folder: Path, reply: bytes) -> list[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / f"{len(list(folder.iterdir())):03}").write_bytes(reply)
    return [path.read_bytes() for path in sorted(folder.iterdir())]

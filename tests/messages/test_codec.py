"""All messages use one codec: bytes and files have the same content, and paths may be strings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from collabedit.errors import CollabEditError, InputError, RoundError
from collabedit.messages import (
    Contribution,
    Covariance,
    Decision,
    Delta,
    Ready,
    Request,
    RequestKind,
    RoundConfig,
    RoundState,
)
from collabedit.messages.codec import JsonMessage, TensorMessage
from collabedit.rounds import Ledger

FILES = Path(__file__).parents[1] / "fixtures" / "v1" / "sequential"
COVARIANCE = FILES.parent / "covariance.safetensors"


def messages() -> list[JsonMessage | TensorMessage]:
    """One of each kind."""
    delta = Delta.load(FILES / "delta-1.safetensors")
    return [
        RoundConfig.from_bytes(RoundConfig.load(FILES / "round.json").to_bytes()),
        Contribution.load(FILES / "bank-1.safetensors"),
        delta,
        RoundState.load(FILES / "state.safetensors"),
        Decision.load(FILES.parent / "decision.json"),
        Covariance.load(COVARIANCE),
        Request(RequestKind.CONTRIBUTE, delta),
        Request(RequestKind.DECIDE, delta, decision=Decision.load(FILES.parent / "decision.json")),
        Ready(round_sha256="0" * 64, edits=3),
        Ledger(delta),
    ]


def same(a: JsonMessage | TensorMessage, b: JsonMessage | TensorMessage) -> bool:
    if isinstance(a, JsonMessage):
        return a == b
    assert isinstance(b, TensorMessage)
    (left, about), (right, other) = a.pack(), b.pack()
    for metadata in (about, other):
        metadata.pop("created")
    equal = all(torch.equal(left[name], right[name]) for name in left)
    return about == other and left.keys() == right.keys() and equal


@pytest.mark.parametrize("message", messages(), ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("kind", [str, Path])
def test_bytes_and_files_hold_the_same(
    message: JsonMessage | TensorMessage, kind: type[str] | type[Path], tmp_path: Path
) -> None:
    path = kind(tmp_path / "message")
    message.save(path)
    assert same(type(message).load(path), message)
    assert same(type(message).from_bytes(message.to_bytes()), message)
    assert [found.name for found in tmp_path.iterdir()] == ["message"]


@pytest.mark.parametrize("message", messages(), ids=lambda m: type(m).__name__)
def test_every_kind_refuses_every_other(message: JsonMessage | TensorMessage) -> None:
    for other in messages():
        if type(other) is type(message):
            continue
        with pytest.raises(CollabEditError) as caught:
            type(message).from_bytes(other.to_bytes(), "somewhere")
        assert str(caught.value).startswith("somewhere")
        assert "\n" not in str(caught.value)


def test_a_newer_version_asks_for_an_upgrade() -> None:
    config = RoundConfig.load(FILES / "round.json")
    raw = config.to_bytes().replace(b'"version": 2', b'"version": 3')
    with pytest.raises(RoundError, match=r"version 3 of collabedit\.round .* upgrade collabedit"):
        RoundConfig.from_bytes(raw)


@pytest.mark.parametrize("field", ["format", "version"])
@pytest.mark.parametrize("value", [{"a": [2]}, [1], None, 1.5, "x" * 1000])
def test_a_malformed_format_or_version_is_refused(field: str, value: object) -> None:
    values = RoundConfig.load(FILES / "round.json").model_dump(mode="json")
    with pytest.raises(RoundError, match=r"somewhere: (version .* is not known|not a )") as caught:
        RoundConfig.from_values({**values, field: value}, "somewhere")
    assert len(str(caught.value)) < 300


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the delta .*nowhere"):
        Delta.load(str(tmp_path / "nowhere"))

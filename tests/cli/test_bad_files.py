"""A corpus of bad files, given to every command that reads one: one clear line, nothing left."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import fails

V1 = Path(__file__).parents[1] / "fixtures" / "v1"
ROUND = V1 / "one-shot" / "round.json"
SENT = V1 / "one-shot" / "bank-1.safetensors"
COVARIANCE = V1 / "covariance.safetensors"


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("mom2.mom2.npy", bytes(10**6))
    return stream.getvalue()


def announced(header: bytes, size: int | None = None) -> bytes:
    """Bytes with the form of safetensors."""
    return struct.pack("<Q", len(header) if size is None else size) + header


#: What a path can hold that no command can use.
CONTENTS: dict[str, bytes] = {
    "nothing": b"",
    "a space": b" \n",
    "text": b"The capital of France is Lyon.\n",
    "half an object": b'[{"prompt": "The capital of {} is", "subject": ',
    "a bare number": b"7",
    "a null": b"null",
    "an empty list": b"[]",
    "an empty object": b"{}",
    "too deep": b"[" * 100_000,
    "too many digits": b'[{"case_id": ' + b"9" * 5_000 + b"}]",
    "half an emoji": b'[{"prompt": "{} is", "subject": "\\ud83d", "target": 5}]',
    "a NUL": b'[{"prompt": "\x00"}]',
    "UTF-16": '[{"prompt": "{} is"}]'.encode("utf-16"),
    "Latin-1": b'[{"prompt": "Qu\xe9bec"}]',
    "gzip": gzip.compress(b"[]", mtime=0),
    "a zip bomb": archive(),
    "a pickle": pickle.dumps({"keys": [1.0]}),
    "a pointer of LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "a page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a header of 2 GB": announced(b"{}", 2**31),
    "a header of 2^64": announced(b"{}", 2**64 - 1),
    "10^9 columns": announced(
        b'{"w/keys":{"dtype":"F64","shape":[1000000000,1],"data_offsets":[0,8000000000]}}'
    ),
    "foreign arrays": announced(
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' + b" " * 2
    )
    + bytes(4),
    "a cut file": SENT.read_bytes()[:200],
}


def put_missing(path: Path) -> None:
    """No file at all."""


def put_folder(path: Path) -> None:
    path.mkdir()


def put_loop(path: Path) -> None:
    path.symlink_to(path)


#: What can be at a path instead of a file.
PLACES: dict[str, Callable[[Path], None]] = {
    "missing": put_missing,
    "a folder": put_folder,
    "a link to itself": put_loop,
}

#: Every command that reads a file, with the bad one as FILE and what it writes as OUT.
COMMANDS: dict[str, tuple[object, ...]] = {
    "requests check": ("requests", "check", "FILE"),
    "edit": ("edit", "--requests", "FILE", "-o", "OUT"),
    "contribute round": ("contribute", "--round", "FILE", "-r", "FILE", "-o", "OUT"),
    "contribute": ("contribute", "--round", ROUND, "-r", "FILE", "-o", "OUT"),
    "merge": ("merge", "FILE", "--round", ROUND, "-C", COVARIANCE, "-o", "OUT"),
    "merge deltas": ("merge", "FILE", "--method", "TA", "-o", "OUT"),
    "merge round": ("merge", SENT, "--round", "FILE", "-C", COVARIANCE, "-o", "OUT"),
    "merge covariance": ("merge", SENT, "--round", ROUND, "-C", "FILE", "-o", "OUT"),
    "merge delta": (
        *("merge", SENT, "--round", ROUND, "-C", COVARIANCE, "--delta", "FILE", "-o", "OUT"),
    ),
    "apply": ("apply", "FILE", "-o", "OUT"),
    "detect": ("detect", "FILE"),
    "round new": ("round", "new", "--contexts", "FILE", "-o", "OUT"),
    "stats show": ("stats", "show", "FILE"),
    "run": ("run", "single-round", "--dataset", "FILE", "--results", "OUT"),
    "run hparams": ("run", "single-round", "--hparams", "FILE", "--results", "OUT"),
    "summarize": ("summarize", "FILE"),
}


def refused(command: str, bad: Path, folder: Path) -> None:
    out = folder / "out.safetensors"
    names = {"FILE": bad, "OUT": out}
    before = sorted(path.name for path in folder.iterdir())
    line = fails(*(names.get(str(part), part) for part in COMMANDS[command]))
    assert len(line) < 2_000
    assert str(bad) in line or bad.name in line
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_contents_get_one_line(command: str, content: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_bytes(CONTENTS[content])
    refused(command, bad, tmp_path)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_places_get_one_line(command: str, place: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    PLACES[place](bad)
    refused(command, bad, tmp_path)

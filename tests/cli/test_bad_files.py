"""A corpus of bad files, given to every command that reads one: one clear line, nothing written."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from collabedit.export.undo import UNDO
from tests.cli.commands import fails
from tests.conftest import make_model, save_model

V1 = Path(__file__).parents[1] / "fixtures" / "v1"
ROUND = V1 / "one-shot" / "round.json"
SENT = V1 / "one-shot" / "bank-1.safetensors"
COVARIANCE = V1 / "covariance.safetensors"
DELTA = V1 / "one-shot" / "delta-1.safetensors"


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("mom2.mom2.npy", bytes(10**6))
    return stream.getvalue()


def announced(header: bytes, size: int | None = None) -> bytes:
    """Bytes with the form of safetensors."""
    return struct.pack("<Q", len(header) if size is None else size) + header


#: File contents that no command can use.
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


#: What may be at a path instead of a file.
BAD_PATHS: dict[str, Callable[[Path], None]] = {
    "missing": put_missing,
    "a folder": put_folder,
    "a link to itself": put_loop,
}

#: Every command that reads a file, with the bad one as FILE, what it writes as OUT, and MODEL, a
#: good model, where the command needs one beside it.
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
    "stats import": ("stats", "import", "FILE:1", "-m", "MODEL", "-o", "OUT"),
    "stats collect": ("stats", "collect", "-m", "MODEL", "--corpus", "FILE", "-o", "OUT"),
    "tune": ("tune", "MODEL", "--dataset", "FILE", "--results", "OUT"),
    "tune hparams": ("tune", "MODEL", "--hparams", "FILE", "--results", "OUT"),
    "tune covariance": ("tune", "MODEL", "-C", "FILE", "--results", "OUT"),
    "doctor hparams": ("doctor", "MODEL", "--hparams", "FILE", "--no-trial"),
    "doctor covariance": ("doctor", "MODEL", "-C", "FILE", "--no-trial"),
    "export": ("export", "FILE", "-o", "OUT"),
    "export requests": ("export", DELTA, "-m", "MODEL", "-r", "FILE", "-o", "OUT"),
    "revert": ("revert", "FILE", "-o", "OUT"),
}

#: Every command that loads a model, with the bad one as FILE.
MODEL_COMMANDS: dict[str, tuple[object, ...]] = {
    "models show": ("models", "show", "FILE"),
    "doctor": ("doctor", "FILE", "--no-trial"),
    "tune": ("tune", "FILE", "--results", "OUT"),
    "round new": ("round", "new", "--model", "FILE", "-o", "OUT"),
    "edit": ("edit", "--model", "FILE", "-r", "REQUESTS", "-o", "OUT"),
    "run": ("run", "single-round", "--model", "FILE", "--results", "OUT"),
    "stats collect": ("stats", "collect", "-m", "FILE", "-o", "OUT"),
    "stats import": ("stats", "import", "x.npz:1", "-m", "FILE", "-o", "OUT"),
    "export": ("export", DELTA, "-m", "FILE", "-o", "OUT"),
}


#: Names of bad files by command, if the name decides how a file is read.
NAMES = {"stats collect": "bad.jsonl"}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and a file of requests."""
    folder = tmp_path_factory.mktemp("good")
    model = make_model("llama")
    save_model(model, folder / "model")
    request = {"prompt": "The capital of {} is", "subject": "France", "target": "Rome"}
    (folder / "requests.jsonl").write_text(json.dumps(request))
    return folder


def refused(arguments: tuple[object, ...], bad: Path, good: Path) -> None:
    """Check for one line that names the bad file, and no new files beside it."""
    folder = bad.parent
    paths = {"FILE": bad, "OUT": folder / "out.safetensors"}
    paths |= {"MODEL": good / "model", "REQUESTS": good / "requests.jsonl"}
    before = sorted(path.name for path in folder.iterdir())
    filled = [re.sub("|".join(paths), lambda m: str(paths[m[0]]), str(p)) for p in arguments]
    line = fails(*filled)
    assert len(line) < 2_000
    assert bad.name in line
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_contents_get_one_line(command: str, content: str, tmp_path: Path, good: Path) -> None:
    bad = tmp_path / NAMES.get(command, "bad.json")
    bad.write_bytes(CONTENTS[content])
    refused(COMMANDS[command], bad, good)


@pytest.mark.parametrize("kind", BAD_PATHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_paths_get_one_line(command: str, kind: str, tmp_path: Path, good: Path) -> None:
    bad = tmp_path / NAMES.get(command, "bad.json")
    BAD_PATHS[kind](bad)
    refused(COMMANDS[command], bad, good)


@pytest.mark.parametrize("kind", [*BAD_PATHS, "a file"])
@pytest.mark.parametrize("command", MODEL_COMMANDS)
def test_paths_without_a_model_get_one_line(
    command: str, kind: str, tmp_path: Path, good: Path
) -> None:
    bad = tmp_path / "bad"
    BAD_PATHS.get(kind, Path.touch)(bad)
    refused(MODEL_COMMANDS[command], bad, good)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_with_a_bad_file_gets_one_line(
    name: str, content: str, tmp_path: Path, good: Path
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(good / "model", bad)
    (bad / name).write_bytes(CONTENTS[content])
    refused(MODEL_COMMANDS["round new"], bad, good)


@pytest.mark.parametrize("content", CONTENTS)
def test_a_bad_gguf_file_gets_one_line(content: str, tmp_path: Path, good: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(CONTENTS[content])
    refused(MODEL_COMMANDS["models show"], bad, good)


@pytest.mark.parametrize("content", CONTENTS)
def test_an_edited_model_with_a_bad_record_gets_one_line(
    content: str, tmp_path: Path, good: Path
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(good / "model", bad)
    (bad / UNDO).write_bytes(CONTENTS[content])
    refused(COMMANDS["revert"], bad, good)

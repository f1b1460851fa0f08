"""Every parser of foreign bytes, with good bytes to start from.

Two fuzzers share it: hypothesis damages good bytes (``test_parsers.py``), and atheris, guided by
the code that each input reaches, searches longer (``tools/fuzz.py``). For both the rule is the
same: bytes are read, or refused with an error meant for people, and nothing else happens.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from collabedit.covariance.imported import _read_npz
from collabedit.datasets import load_round_edits, load_wordings
from collabedit.editors import Hyperparameters
from collabedit.errors import CollabEditError
from collabedit.files import tensors_from_bytes
from collabedit.messages import (
    Contribution,
    Covariance,
    Decision,
    Delta,
    Evaluation,
    Hits,
    Joined,
    Normaliser,
    Opening,
    Ready,
    Request,
    RequestKind,
    RoundConfig,
    RoundState,
    Settled,
)
from collabedit.messages.codec import JsonMessage, TensorMessage
from collabedit.requests import load_records
from collabedit.rounds import Ledger

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v1"
ROUND = FIXTURES / "sequential"
#: An error has at most this many lines, since at most twenty bad requests are listed.
MOST_LINES = 22

_FACTS: list[dict[str, Any]] = [
    {"prompt": "The capital of {} is", "subject": "France", "target": "Lyon"},
    {
        "case_id": 3,
        "requested_rewrite": {
            "prompt": "{} speaks",
            "subject": "Anna",
            "target_new": {"str": "Dutch"},
            "target_true": {"str": "French"},
        },
        "paraphrase_prompts": ["Anna's tongue is"],
        "neighborhood_prompts": ["Paul speaks"],
    },
    {"src": "Who is A?", "subject": "A", "answers": ["B"], "loc": "?", "loc_ans": "C"},
]
#: A file of round edits, also of ``tests/datasets/test_fuzzing.py``.
ROUND_EDITS: list[dict[str, Any]] = [
    {
        "edit": {
            "relation": {"id": "P1", "prompt": "{} is"},
            "subject": {"label": "A"},
            "object": "B",
            "new_object": {"label": "C"},
            "conflict_object": "D",
        },
        "true_objects": [{"label": "B"}],
    }
]
_SETTINGS = b'{"layers": [1, 2], "target_steps": 3, "prior_weight": 5.0}'
_PUBLISHED = b"""alg_name: MEMIT
layers: [1, 2]
clamp_norm_factor: 4
v_num_grad_steps: 25
v_lr: 0.5
v_weight_decay: 0.5
kl_factor: 0.0625
mom2_update_weight: 15000
"""
WIDTH = 4
_DIGEST = "0" * 64


@dataclass(frozen=True)
class Parser:
    """A parser of foreign bytes.

    Attributes:
        name: name of the target.
        read: reads bytes.
        good: bytes that it can read.
    """

    name: str
    read: Callable[[bytes], object]
    good: Sequence[bytes]

    def try_to_read(self, data: bytes) -> None:
        """Read bytes, or see them refused with an error for people; anything else is a fault."""
        try:
            self.read(data)
        except CollabEditError as error:
            lines = str(error).encode().splitlines()  # no lone surrogates, so it can be printed
            assert 0 < len(lines) <= MOST_LINES, lines


def parsers() -> list[Parser]:
    """All targets."""
    messages = [_parser_of(message) for message in _messages()]
    return [*messages, *_files(), Parser("safetensors", _read_safetensors, _tensors())]


def _messages() -> list[JsonMessage | TensorMessage]:
    delta = Delta.load(ROUND / "delta-1.safetensors")
    return [
        RoundConfig.load(ROUND / "round.json"),
        Contribution.load(ROUND / "bank-1.safetensors"),
        delta,
        RoundState.load(ROUND / "state.safetensors"),
        Decision.load(FIXTURES / "decision.json"),
        Covariance.load(FIXTURES / "covariance.safetensors"),
        Request(RequestKind.CONTRIBUTE, delta),
        Ready(round_sha256=_DIGEST, edits=3),
        Ledger(delta),
        Opening(RoundConfig.load(ROUND / "round.json"), ("bank", "hospital"), delta.changes),
        Joined(round_sha256=_DIGEST, model_sha256={"w": _DIGEST}, editors=("MEMIT",)),
        Normaliser(_DIGEST, 5, torch.zeros(WIDTH).double(), torch.ones(WIDTH).double()),
        Evaluation(
            round_sha256=_DIGEST,
            delta_sha256=_DIGEST,
            hits={"rewrite": Hits(before=1, after=2, of=3)},
            perplexity=1.25,
            next_sha256={"w": _DIGEST},
        ),
        Settled(round_sha256=_DIGEST, kept=True),
    ]


def _parser_of(message: JsonMessage | TensorMessage) -> Parser:
    kind = type(message)
    return Parser(kind.__name__, kind.from_bytes, (message.to_bytes(),))


def _files() -> list[Parser]:
    """Formats that are read only from files."""
    lines = "\n".join(map(json.dumps, _FACTS)).encode()
    table = b"prompt,subject,target\n{} is,A,B\n"
    everything = json.dumps(_FACTS).encode()
    requests = {".json": (everything,), ".jsonl": (lines, everything), ".csv": (table,)}
    edits, wordings = json.dumps(ROUND_EDITS).encode(), json.dumps({"P1": ["{} was"]}).encode()
    settings = {".json": (_SETTINGS,), ".yaml": (_PUBLISHED,)}
    return [
        *(
            Parser(f"requests{suffix}", _of_file(load_records, suffix), good)
            for suffix, good in requests.items()
        ),
        Parser("round edits", _of_file(partial(load_round_edits, wordings={}), ".json"), (edits,)),
        Parser("wordings", _of_file(load_wordings, ".json"), (wordings,)),
        Parser("npz", _of_file(partial(_read_npz, size=WIDTH), ".npz"), (_npz(),)),
        *(
            Parser(f"settings{suffix}", _of_file(Hyperparameters.from_file, suffix), good)
            for suffix, good in settings.items()
        ),
    ]


def _npz() -> bytes:
    stream = io.BytesIO()
    moment = np.eye(WIDTH, dtype=np.float32)
    np.savez(stream, **{"mom2.mom2": moment, "mom2.count": np.array(7)})
    return stream.getvalue()


def _tensors() -> tuple[bytes, ...]:
    return (ROUND.joinpath("bank-1.safetensors").read_bytes(),)


def _read_safetensors(data: bytes) -> object:
    return tensors_from_bytes(data, "somewhere")


@lru_cache(maxsize=1)
def _scratch() -> TemporaryDirectory[str]:
    """A folder that exists as long as the process."""
    return TemporaryDirectory(prefix="collabedit-fuzz-")


def _of_file(read: Callable[[Path], object], suffix: str) -> Callable[[bytes], object]:
    def read_bytes(data: bytes) -> object:
        path = Path(_scratch().name) / f"file{suffix}"
        path.write_bytes(data)
        return read(path)

    return read_bytes

"""Data sets by name: one ships with the package, the others come from their publishers."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from collabedit.errors import DatasetError, InputError, UnknownNameError
from collabedit.files import atomic_path, cache_directory, write_text
from collabedit.progress import progress, say
from collabedit.requests import Record, load_records, parse_records

__all__ = ["NamedDataset", "entry", "fetch", "load_dataset", "names", "recorded_sha256", "take"]

_TIMEOUT_SECONDS = 30

#: Suffixes that distinguish a missing file from a misspelt name.
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")


@dataclass(frozen=True)
class NamedDataset:
    """One row of the catalogue.

    Attributes:
        title: its name and authors.
        licence: as its publisher states it.
        megabytes: size of the download, roughly.
        url: the publisher's address; ``None`` if it is part of this package.
        sha256: the file's checksum, if known in advance. Otherwise the first download is trusted:
            its checksum is kept beside it and verified at every read.
    """

    title: str
    licence: str
    megabytes: int
    url: str | None = None
    sha256: str | None = None


_DATASETS = {
    "worldfacts": NamedDataset(
        "World facts with counterfactual objects, part of collabedit", "Apache-2.0", 1
    ),
    "multi_counterfact": NamedDataset(
        "MultiCounterFact (Meng et al., MEMIT, ICLR 2023)",
        "MIT",
        43,
        "https://memit.baulab.info/data/dsets/multi_counterfact.json",
    ),
    "counterfact": NamedDataset(
        "CounterFact (Meng et al., ROME, NeurIPS 2022)",
        "MIT",
        45,
        "https://rome.baulab.info/data/dsets/counterfact.json",
    ),
    "zsre": NamedDataset(
        "zsRE question answering, evaluation part (Levy et al., 2017; Mitchell et al., 2022)",
        "not stated",
        10,
        "https://memit.baulab.info/data/dsets/zsre_mend_eval.json",
    ),
}


def names() -> list[str]:
    """Names of the data sets."""
    return list(_DATASETS)


def entry(name: str) -> NamedDataset:
    """The catalogue's row for a name.

    Raises:
        UnknownNameError: when there is none.
    """
    if name not in _DATASETS:
        raise UnknownNameError("data set", name, names())
    return _DATASETS[name]


def load_dataset(name_or_path: str | os.PathLike[str]) -> list[Record]:
    """Read all records of a data set.

    Args:
        name_or_path: a name of the catalogue, or a file in any form that
            :func:`collabedit.requests.load_records` reads. Unlike a file of edits to make, a data
            set may contradict itself; a warning says so.

    Raises:
        UnknownNameError: when it is not a name and does not look like a file.
        DatasetError: when a download fails or a checksum is wrong.
        InputError: when a file cannot be read; RequestError when a record in it is malformed.
    """
    name = os.fspath(name_or_path)
    if name not in _DATASETS:
        path = Path(name).expanduser()
        if path.suffix.lower() not in _SUFFIXES and not path.is_file():
            raise UnknownNameError("data set", name, [*names(), "or a .json, .jsonl or .csv file"])
        return load_records(path, allow_contradictions=True)
    if entry(name).url is None:
        return parse_records(_packaged(name), source=name)
    return load_records(fetch(name), allow_contradictions=True)


def take(records: Sequence[Record], limit: int | None) -> list[Record]:
    """At most the first ``limit`` records; all of them for ``None``.

    Raises:
        DatasetError: when the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"cannot take {limit} records; the limit must be 1 or more")
    return list(records[:limit])


def fetch(name: str) -> Path:
    """The file of a published data set, downloaded into the cache on first use and verified.

    Raises:
        UnknownNameError: when there is no such data set.
        DatasetError: when the download fails, or the file has the wrong checksum.
    """
    path, dataset = _path(name), entry(name)
    if not path.is_file():
        _download(name, dataset, path)
    digest = _sha256(path)
    expected = dataset.sha256 or recorded_sha256(name)
    if expected is None:
        write_text(_checksum_path(path), f"{digest}\n")
    elif digest != expected:
        raise DatasetError(
            f"{path} has SHA-256 {digest}, expected {expected}; it was changed or is not "
            f"{name}: delete it to download it again"
        )
    return path


def recorded_sha256(name: str) -> str | None:
    """The checksum of a data set's first download, or ``None``."""
    path = _checksum_path(_path(name))
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _path(name: str) -> Path:
    entry(name)
    return cache_directory("datasets") / f"{name}.json"


def _checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _packaged(name: str) -> list[Any]:
    text = resources.files("collabedit.datasets").joinpath(f"{name}.json").read_text("utf-8")
    records: list[Any] = json.loads(text)
    return records


def _download(name: str, dataset: NamedDataset, path: Path) -> None:
    """Download a data set; keep it only if it is complete, has records and the right checksum."""
    say(f"Fetching {name}: {dataset.title}, about {dataset.megabytes} MB, from {dataset.url}")
    with atomic_path(path) as temporary:
        try:
            _stream(dataset, temporary)
        except (OSError, http.client.HTTPException) as error:
            raise DatasetError(
                f"cannot download {name} from {dataset.url}: {error}; check the connection, "
                "or give the path of a local copy instead of the name"
            ) from None
        digest = _sha256(temporary)
        if dataset.sha256 not in (None, digest):
            raise DatasetError(
                f"{dataset.url} has SHA-256 {digest}, expected {dataset.sha256}; it was not kept"
            )
        try:
            load_records(temporary, allow_contradictions=True)
        except InputError as error:
            problem = str(error).replace(str(temporary), "the file")
            raise DatasetError(
                f"{dataset.url} did not deliver the data set ({problem}); it was not kept"
            ) from None
    if dataset.sha256 is None:
        write_text(_checksum_path(path), f"{digest}\n")
    say(f"Kept as {path}, SHA-256 {digest}")


def _stream(dataset: NamedDataset, target: Path) -> None:
    request = urllib.request.Request(str(dataset.url), headers={"User-Agent": "collabedit"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
        length = int(answer.headers.get("Content-Length") or 0)
        received = 0
        shown = length or dataset.megabytes * 1_000_000
        with target.open("wb") as out, progress("Downloading", shown, "B") as bar:
            while block := answer.read(1 << 18):
                out.write(block)
                received += len(block)
                bar.advance(len(block))
    if length and received != length:
        raise OSError(f"the connection ended after {received} of {length} bytes")

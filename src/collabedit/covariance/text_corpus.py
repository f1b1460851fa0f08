"""Corpora of text: files, and data sets on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from collabedit.covariance.corpus import Plan, Report, Window, grouped
from collabedit.errors import DatasetError, InputError, MissingExtraError
from collabedit.models import LanguageModel
from collabedit.models.tokens import leading_special_tokens

__all__ = ["TextCorpus", "file_corpus", "hub_corpus", "windows"]

#: Paragraphs of a text file are joined until a document has this many characters.
_DOCUMENT_CHARACTERS = 2000
#: Documents tokenised at a time.
_TOKENISED_TOGETHER = 64
#: Documents of a Hub data set from which each next one is drawn.
_SHUFFLE_BUFFER = 2000


@dataclass(frozen=True)
class TextCorpus:
    """Documents of text.

    Attributes:
        description: where they come from.
        source: what determines their text and order, as JSON values.
        documents: returns an iterator over them, the same one at every call.
    """

    description: str
    source: Mapping[str, Any]
    documents: Callable[[], Iterable[str]]
    generation_share: ClassVar[float] = 0.0
    default_tokens: ClassVar[int] = 100_000

    def identity(self) -> Mapping[str, Any]:
        """Where the documents come from."""
        return self.source

    def chunks(
        self, model: LanguageModel, plan: Plan, start: int, _report: Report
    ) -> Iterator[list[Window]]:
        """Tokenise the documents and group their windows; skipped chunks are tokenised too."""
        pieces = windows(model.tokenizer, self.documents(), plan.max_length)
        yield from islice(grouped(pieces, plan.chunk_tokens), start, None)


def file_corpus(paths: Sequence[Path], seed: int) -> TextCorpus:
    """Documents of text files, in an order drawn with ``seed`` so that any part is a fair sample.

    A ``.jsonl`` file holds one document per line, as its ``text``. Any other file is text in UTF-8;
    blank lines separate its paragraphs, and consecutive paragraphs are joined into documents of
    about 2,000 characters.

    Raises:
        InputError: when a file cannot be read or has no text.
    """
    documents: list[str] = []
    hashes: list[str] = []
    for path in paths:
        text = _read(path)
        texts = _json_lines(path, text) if path.suffix == ".jsonl" else _paragraph_groups(text)
        if not texts:
            raise InputError(f"{path}: there is no text in it")
        documents += texts
        hashes.append(hashlib.sha256(text.encode()).hexdigest())
    random.Random(seed).shuffle(documents)
    return TextCorpus(
        description=", ".join(path.name for path in paths),
        source={"files": hashes, "seed": seed},
        documents=lambda: documents,
    )


def hub_corpus(name: str, seed: int) -> TextCorpus:
    """Documents of a Hugging Face Hub data set, streamed: the ``text`` of its training split.

    Args:
        name: the data set's name, followed by a colon and a configuration if it has several.
        seed: of the order, which is shuffled within a buffer.

    Raises:
        MissingExtraError: when the package ``datasets`` is not installed.
        DatasetError: while reading, when the data set cannot be read or has no ``text``.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "hub", f"the corpus hub:{name}") from None
    path, _, configuration = name.partition(":")

    def documents() -> Iterator[str]:
        try:
            rows = datasets.load_dataset(
                path, configuration or None, split="train", streaming=True
            ).shuffle(seed=seed, buffer_size=_SHUFFLE_BUFFER)
            for row in rows:
                yield row["text"]
        except KeyError:
            raise DatasetError(
                f"the data set {name} has no column 'text'; save its text in a file and give that"
            ) from None
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DatasetError(f"cannot read the data set {name}: {reason}") from error

    return TextCorpus(f"hub:{name}", {"hub": name, "seed": seed}, documents)


def windows(tokenizer: Any, documents: Iterable[str], max_length: int) -> Iterator[Window]:
    """Tokenise documents and cut each into windows of nearly equal length.

    Every window begins with the special tokens that the tokenizer puts in front of a text, since
    models treat the first position differently; special tokens after a text are left out, since no
    text follows them.

    Args:
        tokenizer: the model's.
        documents: texts; empty ones are skipped.
        max_length: most tokens of a window, including special tokens.
    """
    prefix = leading_special_tokens(tokenizer)
    room = max_length - len(prefix)
    rest = iter(documents)
    while batch := list(islice(rest, _TOKENISED_TOGETHER)):
        encoded = tokenizer(
            batch, add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        for ids in encoded["input_ids"]:
            parts = -(-len(ids) // room)
            for part in range(parts):
                start, end = part * len(ids) // parts, (part + 1) * len(ids) // parts
                yield (*prefix, *ids[start:end])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read the corpus {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _json_lines(path: Path, text: str) -> list[str]:
    documents = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError):  # too many digits, too deep
            document = None
        if not isinstance(document, str):
            raise InputError(f'{path}: line {number} is not of the form {{"text": "..."}}')
        documents.append(document)
    return documents


def _paragraph_groups(text: str) -> list[str]:
    documents: list[str] = []
    lines: list[str] = []
    size = 0
    for line in text.splitlines():
        lines.append(line)
        size += len(line)
        if size >= _DOCUMENT_CHARACTERS and not line.strip():
            documents.append("\n".join(lines))
            lines, size = [], 0
    documents.append("\n".join(lines))
    return [document.strip() for document in documents if document.strip()]

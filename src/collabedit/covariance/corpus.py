"""Where the tokens come from: text files, Hub data sets, or the model's own samples.

A corpus yields *chunks*, each a list of windows of token ids. A chunk is what resuming works with:
chunk number ``i`` is the same whether the chunks before it were asked for or not.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from collabedit.errors import DatasetError, InputError, MissingExtraError
from collabedit.files import sha256_of_json
from collabedit.models import LanguageModel
from collabedit.models.sampling import extend
from collabedit.models.tokens import leading_special_tokens

__all__ = [
    "Corpus",
    "Plan",
    "SelfCorpus",
    "TextCorpus",
    "file_corpus",
    "grouped",
    "hub_corpus",
    "open_corpus",
    "windows",
]

#: Paragraphs of a text file are joined until a document has this many characters.
_DOCUMENT_CHARACTERS = 2000
#: Documents given to the tokenizer at a time.
_TOKENISED_TOGETHER = 64
#: Documents of a Hub data set among which each next one is drawn.
_SHUFFLE_BUFFER = 2000
#: Length of sampled texts: longer ones cost more a token and vary less.
_SAMPLE_LENGTH = 128
#: Texts sampled together at most: the rate still grows with it on a CPU.
_SAMPLE_ROWS = 80
#: First tokens to draw from where the tokenizer puts nothing in front of a text.
_FIRST_TOKENS = 200

Window = Sequence[int]
Report = Callable[[int], None]


@dataclass(frozen=True)
class Plan:
    """How much is wanted of a corpus.

    Attributes:
        tokens: how many tokens in all.
        max_length: tokens of a window at most.
        chunk_tokens: tokens of a chunk of text, roughly.
    """

    tokens: int
    max_length: int
    chunk_tokens: int


class Corpus(Protocol):
    """A source of windows of token ids."""

    @property
    def description(self) -> str:
        """What it is, for people; no part of its text."""

    @property
    def generation_share(self) -> float:
        """The share of the whole work that goes into making the tokens, from 0 to 1."""

    @property
    def default_tokens(self) -> int:
        """How many tokens to take unless the user says otherwise or the model needs more."""

    def identity(self) -> Mapping[str, Any]:
        """All that its chunks depend on besides model and plan, as JSON values."""

    def chunks(
        self, model: LanguageModel, plan: Plan, start: int, report: Report
    ) -> Iterator[list[Window]]:
        """Yield the chunks from number ``start`` on.

        Args:
            model: whose tokens they are.
            plan: sizes.
            start: number of the first chunk wanted.
            report: called with numbers of tokens as they are made; see ``generation_share``.
        """


@dataclass(frozen=True)
class TextCorpus:
    """Documents of text.

    Attributes:
        description: where they are from.
        source: what their text and order depend on, as JSON values.
        documents: returns an iterator over them, the same one at every call.
    """

    description: str
    source: Mapping[str, Any]
    documents: Callable[[], Iterable[str]]
    generation_share: ClassVar[float] = 0.0
    default_tokens: ClassVar[int] = 100_000

    def identity(self) -> Mapping[str, Any]:
        """Where the documents are from."""
        return self.source

    def chunks(
        self, model: LanguageModel, plan: Plan, start: int, _report: Report
    ) -> Iterator[list[Window]]:
        """Tokenise the documents and group their windows; skipped chunks are tokenised too."""
        pieces = windows(model.tokenizer, self.documents(), plan.max_length)
        yield from islice(grouped(pieces, plan.chunk_tokens), start, None)


@dataclass(frozen=True)
class SelfCorpus:
    """Texts that the model itself writes, sampled at temperature 1.

    Attributes:
        seed: of all random draws; chunk ``i`` has a generator of its own made of it and ``i``.
    """

    seed: int = 0
    generation_share: ClassVar[float] = 0.85
    default_tokens: ClassVar[int] = 10_000

    @property
    def description(self) -> str:
        """``self``, and the seed."""
        return f"self: sampled from the model at temperature 1, seed {self.seed}"

    def identity(self) -> Mapping[str, Any]:
        """The seed and the form of the samples."""
        return {"self": self.seed, "length": _SAMPLE_LENGTH, "rows": _SAMPLE_ROWS}

    def chunks(
        self, model: LanguageModel, plan: Plan, start: int, report: Report
    ) -> Iterator[list[Window]]:
        """Sample one batch of texts a chunk, in batches of equal size, without end."""
        length = min(plan.max_length, _SAMPLE_LENGTH)
        batches = -(-plan.tokens // (_SAMPLE_ROWS * length))
        rows = -(-plan.tokens // (batches * length))
        sampler = model.quick_copy()
        for number in count(start):
            generator = torch.Generator(model.device)
            generator.manual_seed(int(sha256_of_json([self.seed, number])[:15], 16))
            yield _sample(sampler, rows, length, generator, report)


def open_corpus(names: Sequence[str], seed: int) -> Corpus:
    """The corpus behind what the user typed.

    Args:
        names: ``["self"]``, ``["hub:NAME"]``, ``["hub:NAME:CONFIGURATION"]``, or files.
        seed: of the samples, or of the order of the documents.

    Raises:
        InputError: when a file cannot be read, or when kinds are mixed.
        MissingExtraError: when a Hub data set is asked for without the package for it.
    """
    if list(names) == ["self"]:
        return SelfCorpus(seed)
    if len(names) == 1 and names[0].startswith("hub:"):
        return hub_corpus(names[0].removeprefix("hub:"), seed)
    special = [name for name in names if name == "self" or name.startswith("hub:")]
    if special:
        raise InputError(f"the corpus {special[0]!r} cannot be mixed with others; give it alone")
    return file_corpus([Path(name).expanduser() for name in names], seed)


def file_corpus(paths: Sequence[Path], seed: int) -> TextCorpus:
    """Documents of text files, in an order drawn with ``seed`` so that any part is a fair sample.

    A ``.jsonl`` file holds one document a line, as its ``text``. Any other file is text in UTF-8;
    blank lines part its paragraphs, and neighbouring paragraphs are joined to documents of about
    2,000 characters.

    Raises:
        InputError: when a file cannot be read or has no text.
    """
    documents: list[str] = []
    hashes: list[str] = []
    for path in paths:
        text = _read(path)
        found = _json_lines(path, text) if path.suffix == ".jsonl" else _paragraph_groups(text)
        if not found:
            raise InputError(f"{path}: there is no text in it")
        documents += found
        hashes.append(hashlib.sha256(text.encode()).hexdigest())
    random.Random(seed).shuffle(documents)
    return TextCorpus(
        description=", ".join(path.name for path in paths),
        source={"files": hashes, "seed": seed},
        documents=lambda: documents,
    )


def hub_corpus(name: str, seed: int) -> TextCorpus:
    """Documents of a data set of the Hugging Face Hub, streamed: the ``text`` of its training part.

    Args:
        name: the data set's name, with a colon and a configuration behind it where it has several.
        seed: of the order, which is random within a buffer.

    Raises:
        MissingExtraError: when the package ``datasets`` is not installed.
        DatasetError: while reading, when the data set cannot be had or has no ``text``.
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
    """Tokenise documents and cut each in windows of nearly equal length.

    Every window begins with the special tokens that the tokenizer puts in front of a text, since
    models treat the first position apart; special tokens behind a text are left out, as no text
    goes on after them.

    Args:
        tokenizer: the model's.
        documents: texts; empty ones are skipped.
        max_length: tokens of a window at most, special tokens included.
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


def grouped(pieces: Iterable[Window], tokens: int) -> Iterator[list[Window]]:
    """Group consecutive windows until each group has at least ``tokens`` tokens."""
    group: list[Window] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece)
        if size >= tokens:
            yield group
            group, size = [], 0
    if group:
        yield group


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


def _special_ids(tokenizer: Any) -> list[int]:
    added = tokenizer.added_tokens_decoder.items()
    return sorted({*tokenizer.all_special_ids, *(id_ for id_, token in added if token.special)})


def _first_tokens(tokenizer: Any, special: Sequence[int]) -> list[int]:
    """Common tokens that a text may begin with: vocabularies are ordered by frequency."""
    ordinary = [id_ for id_ in range(len(tokenizer)) if id_ not in set(special)]
    capitalised = (
        id_
        for id_ in ordinary
        if len(text := tokenizer.decode([id_])) > 1 and text.isalpha() and text.istitle()
    )
    return list(islice(capitalised, _FIRST_TOKENS)) or ordinary[-_FIRST_TOKENS:]


def _sample(
    model: LanguageModel, rows: int, length: int, generator: torch.Generator, report: Report
) -> list[Window]:
    """Sample ``rows`` texts of exactly ``length`` tokens at temperature 1.

    They begin as the tokenizer makes texts begin. Where it puts nothing in front, they begin with
    a common token drawn at random: a beginning-of-text token would be foreign there, and in chat
    models it leads to the same few words. Special tokens are never drawn, so a text goes on where
    the model would end it.
    """
    tokenizer = model.tokenizer
    special = _special_ids(tokenizer)
    written = _beginnings(tokenizer, special, rows, generator)
    report(written.numel())

    def choose(logits: Tensor, _position: int) -> Tensor:
        logits = logits[:, : len(tokenizer)]
        logits[:, [id_ for id_ in special if id_ < logits.shape[1]]] = -torch.inf
        report(rows)
        return _draw(logits, generator)

    texts: list[Window] = extend(model, written, length, choose).tolist()
    return texts


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token a row ``[rows, 1]``, by inverting the distribution: far faster than multinomial."""
    cumulative = torch.softmax(logits, dim=-1).cumsum(dim=-1)
    point = torch.rand(len(logits), 1, generator=generator, device=logits.device)
    drawn = torch.searchsorted(cumulative, point * cumulative[:, -1:], right=True)
    return drawn.clamp(max=logits.shape[-1] - 1)


def _beginnings(
    tokenizer: Any, special: Sequence[int], rows: int, generator: torch.Generator
) -> Tensor:
    """``[rows, n]``, the first token ids of texts to sample."""
    prefix = leading_special_tokens(tokenizer)
    if prefix:
        return torch.tensor([prefix] * rows, device=generator.device)
    choices = torch.tensor(_first_tokens(tokenizer, special), device=generator.device)
    drawn = torch.randint(len(choices), (rows, 1), generator=generator, device=generator.device)
    return choices[drawn]

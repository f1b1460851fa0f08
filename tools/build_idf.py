"""Build ``english_idf.json.gz``: in how many paragraphs of English text each word occurs.

Consistency weights words by these counts. They are statistics of the text; none of the text itself
is kept. The same input always gives the same bytes.

Usage::

    python tools/build_idf.py enwiki_107_articles.txt wikitext-2_valid.txt
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

DEFAULT_PATH = Path(__file__).resolve().parents[1] / "src/collabedit/evaluation/english_idf.json.gz"
VERSION = 1
MIN_WORDS = 20  # shorter lines are headings and list items
MIN_COUNT = 2  # any other word counts as seen once, so words seen once need no entry
SOURCE = (
    "Document frequencies of words over paragraphs of English Wikipedia: 107 articles and the "
    "validation part of WikiText-2. The texts are CC BY-SA and not included; the counts are "
    "facts about them and come under the licence of this package."
)
WORD = re.compile(r"(?u)\b\w\w+\b")  # as TfidfVectorizer of scikit-learn finds words


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("texts", nargs="+", type=Path, help="UTF-8 text, one paragraph per line")
    parser.add_argument("--output", type=Path, default=DEFAULT_PATH)
    options = parser.parse_args(arguments)
    options.output.write_bytes(build(read_paragraphs(options.texts)))


def read_paragraphs(paths: Iterable[Path]) -> Iterator[set[str]]:
    """The distinct words of each paragraph that has at least ``MIN_WORDS`` words."""
    for path in paths:
        for line in path.read_text("utf-8").splitlines():
            words = WORD.findall(line.replace("<unk>", " ").lower())
            if len(words) >= MIN_WORDS:
                yield set(words)


def build(paragraphs: Iterable[set[str]]) -> bytes:
    """The compressed table: words grouped by count, each group in alphabetical order."""
    counts: Counter[str] = Counter()
    documents = 0
    for paragraph in paragraphs:
        counts.update(paragraph)
        documents += 1
    by_count: dict[int, list[str]] = {}
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if count >= MIN_COUNT:
            by_count.setdefault(count, []).append(word)
    table = {
        "version": VERSION,
        "source": SOURCE,
        "documents": documents,
        "words": {str(count): " ".join(group) for count, group in by_count.items()},
    }
    return gzip.compress(json.dumps(table, ensure_ascii=False).encode(), mtime=0)


if __name__ == "__main__":
    main()

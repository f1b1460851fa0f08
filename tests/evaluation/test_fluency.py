from __future__ import annotations

import gzip
import importlib.util
import json
import math
import random
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from collabedit.errors import MissingExtraError
from collabedit.evaluation import fluency
from collabedit.evaluation.fluency import (
    InverseDocumentFrequencies,
    consistency,
    english_idf,
    evaluate_generations,
    ngram_entropy,
    tokenize,
)
from collabedit.models import LanguageModel
from collabedit.requests import EditRequest, Record

ROOT = Path(__file__).resolve().parents[2]
needs_nltk = pytest.mark.skipif(
    importlib.util.find_spec("nltk") is None, reason="needs the extra `text`"
)


@pytest.fixture
def no_nltk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "nltk.tokenize", None)
    fluency._tokenizers.cache_clear()
    yield
    fluency._tokenizers.cache_clear()


@needs_nltk
def test_entropy_by_hand() -> None:
    # Four equal 2-grams (2 bits) and three equal 3-grams: (2/3 * 2 + 4/3 * log2 3) / 2.
    assert ngram_entropy("a b c d e") == pytest.approx((2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2)
    assert ngram_entropy("a a a a a a") == 0.0
    assert ngram_entropy("one") == ngram_entropy("") == 0.0


@needs_nltk
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't go; it's John's.", "Do n't go ; it 's John 's ."),
        ("state-of-the-art (3.14) self.ruler", "state-of-the-art ( 3.14 ) self.ruler"),
        ("O'Neill, wait... We'll", "O'Neill , wait ... We 'll"),
        ('She "cannot" go.', "She `` can not '' go ."),
        ("a=b is B:unsigned", "a=b is B : unsigned"),
        ("He left. She stayed.", "He left . She stayed ."),
        ("Dr. Smith met U.S. President Obama.", "Dr. Smith met U.S. President Obama ."),
    ],
)
def test_words_follow_the_treebank(text: str, words: str) -> None:
    assert tokenize(text) == words.split()


@needs_nltk
def test_entropy_matches_the_original_code(reference: Path) -> None:
    """Every text has the original's value, apart from one disputed end of a sentence at most.

    The original's sentence splitter was trained on the text of that run and joins two sentences
    of some texts, which leaves a period on the word before it.
    """
    units = json.loads((reference / "metric_units.json").read_text("utf-8"))
    for text, expected in zip(units["texts"], units["ngram_entropy"], strict=True):
        joined = [ngram_entropy(text), *_entropies_with_one_sentence_less(text)]
        assert any(value == pytest.approx(expected, rel=1e-12) for value in joined)


def _entropies_with_one_sentence_less(text: str) -> Iterator[float]:
    sentences, words = fluency._tokenizers()
    parts = [words.tokenize(part) for part in sentences.tokenize(text)]
    for index in range(len(parts) - 1):
        left = parts[index]
        merged = [*left[:-2], left[-2] + "."] if left[-1] == "." else left
        tokens = [*chain(*parts[:index], merged, *parts[index + 1 :])]
        yield 1 / 3 * fluency._entropy(tokens, 2) + 2 / 3 * fluency._entropy(tokens, 3)


def test_consistency_matches_the_original_code(reference: Path) -> None:
    numpy = pytest.importorskip("numpy")
    units = json.loads((reference / "metric_units.json").read_text("utf-8"))
    vocabulary = json.loads((reference / "tfidf_vocab.json").read_text("utf-8"))
    values = numpy.load(reference / "idf.npy").tolist()
    weights = {word: values[column] for word, column in vocabulary.items()}
    idf = InverseDocumentFrequencies(0, weights, unknown=0.0)
    for first, second, expected in units["tfidf_pairs"]:
        texts = units["texts"]
        assert consistency(texts[first], texts[second], idf) == pytest.approx(expected)


def test_consistency_matches_scikit_learn() -> None:
    numpy = pytest.importorskip("numpy")
    text = pytest.importorskip("sklearn.feature_extraction.text")
    idf = english_idf()
    words = sorted(idf.weights)
    vectorizer = text.TfidfVectorizer(vocabulary=words)
    vectorizer.idf_ = numpy.array([idf.weights[word] for word in words])
    draw = random.Random(0)
    for _ in range(20):
        first, second = (" ".join(draw.choices(words[:3000], k=300)).title() for _ in range(2))
        rows = vectorizer.transform([first, second]).toarray()
        assert consistency(first, second) == pytest.approx(float(rows[0] @ rows[1]), rel=1e-12)


def test_consistency_of_equal_and_unrelated_texts() -> None:
    assert consistency("a city is Paris", "Paris is a city") == pytest.approx(1.0)
    assert consistency("Москва", "Paris is a city") == consistency("", "Paris") == 0.0
    assert consistency("Xyzzyq", "xyzzyq") == pytest.approx(1.0)  # unknown words count, too


def test_rare_words_have_more_weight() -> None:
    idf = english_idf()
    assert idf.weights["the"] < idf.weights["city"] < idf.weights["piano"] < idf.unknown
    assert idf.version == 1


def test_the_table_is_built_from_counts_of_paragraphs(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("build_idf", ROOT / "tools/build_idf.py")
    assert spec is not None
    assert spec.loader is not None
    build_idf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build_idf)
    rest = " ".join(f"word{i}" for i in range(30))
    text = tmp_path / "text.txt"
    text.write_text(f"Rome Rome {rest}\n= short =\nrome <unk> once {rest}\n", "utf-8")
    build_idf.main([str(text), "--output", str(tmp_path / "table.gz")])
    table = json.loads(gzip.decompress((tmp_path / "table.gz").read_bytes()))
    assert table["documents"] == 2
    assert {"rome", "word0"} <= set(table["words"]["2"].split())
    assert list(table["words"]) == ["2"]
    assert "unk" not in table["words"]["2"].split()


@pytest.mark.usefixtures("no_nltk")
def test_without_nltk_the_extra_is_named_before_generating(
    tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fluency, "generate", lambda *_, **__: pytest.fail("generated"))
    record = Record(EditRequest(1, "{} is in", "France", "Rome"), generation_prompts=("France",))
    with pytest.raises(MissingExtraError, match=r'pip install "collabedit\[text\]"'):
        evaluate_generations(tiny_llama, [record])


@needs_nltk
def test_records_get_their_own_generations(tiny_llama: LanguageModel) -> None:
    request = EditRequest(1, "The capital of {} is", "France", "Rome")
    records = [
        Record(request, generation_prompts=("The capital", "France is")),
        Record(request),
        Record(request, generation_prompts=("Rome is",), reference_texts=("Rome is a city",)),
    ]
    first, second, third = evaluate_generations(tiny_llama, records, max_length=30)
    assert [text[:6] for text in first["text"]] == ["The ca", "France"]
    assert first["ngram_entropy"] == pytest.approx(sum(map(ngram_entropy, first["text"])) / 2)
    assert "reference_score" not in first
    assert second == {}
    joined = " ".join(third["text"])
    assert 0 < third["reference_score"] == consistency(joined, "Rome is a city")
    assert third["idf_version"] == english_idf().version
    assert "idf_version" not in first

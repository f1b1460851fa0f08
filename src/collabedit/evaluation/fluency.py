"""Free text about an edited subject: is it fluent, and does it agree with the new fact?

Fluency and consistency are the generation entropy and the reference score of ROME (Meng et al.,
NeurIPS 2022).
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice
from statistics import fmean
from typing import Any, TypedDict

from collabedit.errors import MissingExtraError
from collabedit.evaluation.generation import Sample, generate
from collabedit.models import LanguageModel
from collabedit.requests import Record

__all__ = [
    "GenerationResult",
    "InverseDocumentFrequencies",
    "consistency",
    "english_idf",
    "evaluate_generations",
    "ngram_entropy",
    "tokenize",
]

# A period after one of these rarely ends a sentence. Without such a list, NLTK's sentence splitter
# knows no abbreviations, and its trained model for English has to be downloaded.
_ABBREVIATIONS = """
    a.d a.k.a a.m adm apr assn aug ave b.a b.c b.s bros c.e capt cf cmdr co col corp d.c dec dept
    dr e.g ed est etc feb fig ft gen gov hon i.e inc jan jr lt ltd m.a m.d maj messrs mr mrs ms mt
    n.y nov oct p.m ph.d pres prof pvt rep rev s.a sen sept sgt sr st u.k u.n u.s u.s.a vol vs
"""
_IDF_WORD = re.compile(r"\b\w\w+\b")  # as scikit-learn's TfidfVectorizer finds words


class GenerationResult(TypedDict, total=False):
    """Measurements of one record's generations; the keys are those of ROME's result files.

    ``reference_score`` is absent if the record has no reference texts. Scores are only comparable
    under the same ``idf_version``.
    """

    ngram_entropy: float
    reference_score: float
    idf_version: int
    text: list[str]


def evaluate_generations(
    model: LanguageModel,
    records: Sequence[Record],
    *,
    seed: int = 0,
    max_length: int = 100,
    top_k: int = 5,
    sample: Sample | None = None,
) -> list[GenerationResult]:
    """Generate from the records' generation prompts and measure the texts.

    Args:
        model: the model, edited or not.
        records: the records; one without generation prompts gets an empty result.
        seed: of the sampling.
        max_length: tokens of a text, its prompt included.
        top_k: the most likely tokens to sample from.
        sample: samples the texts elsewhere, such as on workers.

    Returns:
        One result per record, in the order of the records.

    Raises:
        RequestError: when a prompt is longer than the model's context.
        MissingExtraError: when NLTK is not installed; nothing is generated then.
    """
    prompts = [prompt for record in records for prompt in record.generation_prompts]
    if prompts:
        _tokenizers()  # fail before generating, which takes long
    texts = iter(
        generate(model, prompts, seed=seed, max_length=max_length, top_k=top_k, sample=sample)
    )
    return [
        _measure(list(islice(texts, len(record.generation_prompts))), record) for record in records
    ]


def _measure(texts: list[str], record: Record) -> GenerationResult:
    if not texts:
        return {}
    result: GenerationResult = {
        "ngram_entropy": fmean(ngram_entropy(text) for text in texts),
        "text": texts,
    }
    if record.reference_texts:
        joined = " ".join(record.reference_texts)
        result["reference_score"] = consistency(" ".join(texts), joined)
        result["idf_version"] = english_idf().version
    return result


@cache
def _tokenizers() -> tuple[Any, Any]:
    """NLTK's sentence splitter and word tokenizer, neither of which needs downloaded data."""
    try:
        from nltk.tokenize import NLTKWordTokenizer
        from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
    except ImportError:
        raise MissingExtraError("nltk", "text", "measuring fluency and consistency") from None
    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS.split())
    return PunktSentenceTokenizer(parameters), NLTKWordTokenizer()


def tokenize(text: str) -> list[str]:
    """Words and punctuation marks of a text, as NLTK's ``word_tokenize`` finds them.

    Sentences are split with a fixed list of English abbreviations instead of NLTK's trained
    Punkt model, so that nothing is downloaded. The two may disagree about a period that follows
    an abbreviation.

    Raises:
        MissingExtraError: when NLTK is not installed.
    """
    sentences, words = _tokenizers()
    return [word for sentence in sentences.tokenize(text) for word in words.tokenize(sentence)]


def ngram_entropy(text: str) -> float:
    """Mean of the entropies of a text's 2-grams and 3-grams, weighted 2/3 and 4/3, in bits.

    Repetitive text scores low. A text of fewer than two words has entropy 0. Words are those of
    :func:`tokenize`.

    Raises:
        MissingExtraError: when NLTK is not installed.
    """
    words = tokenize(text)
    return fmean((2 / 3 * _entropy(words, 2), 4 / 3 * _entropy(words, 3)))


def _entropy(words: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values())


@dataclass(frozen=True)
class InverseDocumentFrequencies:
    """The weight of each word in a comparison of texts; rare words count more.

    Attributes:
        version: of the table; consistencies are only comparable under the same version.
        weights: ``ln((1 + documents) / (1 + documents with the word)) + 1`` for each known word,
            in lower case.
        unknown: the weight of any other word.
    """

    version: int
    weights: Mapping[str, float]
    unknown: float


@cache
def english_idf() -> InverseDocumentFrequencies:
    """The packaged table, counted over paragraphs of English Wikipedia.

    A word that the table lacks has the weight of one that occurs in a single paragraph.
    """
    packed = files("collabedit.evaluation").joinpath("english_idf.json.gz").read_bytes()
    table = json.loads(gzip.decompress(packed))

    def weight(count: int) -> float:
        return math.log((1 + table["documents"]) / (1 + count)) + 1

    weights = {
        word: weight(int(count))
        for count, words in table["words"].items()
        for word in words.split()
    }
    return InverseDocumentFrequencies(table["version"], weights, unknown=weight(1))


def consistency(text: str, reference: str, idf: InverseDocumentFrequencies | None = None) -> float:
    """Cosine of two texts' tf-idf vectors, 0 to 1; 0 when they share no word.

    The weights of words are the same for all runs, so values of different runs are comparable.
    Earlier versions fitted the weights to the records of each run: their values are comparable
    neither with these nor with each other.

    Args:
        text: the generations of one record, joined.
        reference: its reference texts, joined.
        idf: weights of words; by default :func:`english_idf`.
    """
    idf = idf or english_idf()
    first, second = _tf_idf(text, idf), _tf_idf(reference, idf)
    norm = math.hypot(*first.values()) * math.hypot(*second.values())
    dot = sum(weight * second.get(word, 0.0) for word, weight in first.items())
    return dot / norm if norm else 0.0


def _tf_idf(text: str, idf: InverseDocumentFrequencies) -> dict[str, float]:
    counts = Counter(_IDF_WORD.findall(text.lower()))
    return {word: n * idf.weights.get(word, idf.unknown) for word, n in counts.items()}

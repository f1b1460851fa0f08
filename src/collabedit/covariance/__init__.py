"""Second moments of the edited weights' inputs: what an edit must leave unchanged."""

from collabedit.covariance.collect import collect
from collabedit.covariance.corpus import Corpus, Plan
from collabedit.covariance.default import default_covariance
from collabedit.covariance.imported import import_npz, layer_in_file_name
from collabedit.covariance.opening import open_corpus
from collabedit.covariance.pooled import merge
from collabedit.covariance.self_corpus import SelfCorpus
from collabedit.covariance.text_corpus import TextCorpus, file_corpus, hub_corpus
from collabedit.covariance.written import WrittenCorpus, own_corpus

__all__ = [
    "Corpus",
    "Plan",
    "SelfCorpus",
    "TextCorpus",
    "WrittenCorpus",
    "collect",
    "default_covariance",
    "file_corpus",
    "hub_corpus",
    "import_npz",
    "layer_in_file_name",
    "merge",
    "open_corpus",
    "own_corpus",
]

"""Second moments of what the edited weights read: what an edit must leave as it is."""

from collabedit.covariance.collect import collect, default_covariance
from collabedit.covariance.corpus import (
    Corpus,
    SelfCorpus,
    TextCorpus,
    file_corpus,
    hub_corpus,
    open_corpus,
)
from collabedit.covariance.imported import import_npz, layer_in_file_name
from collabedit.covariance.pooled import merge

__all__ = [
    "Corpus",
    "SelfCorpus",
    "TextCorpus",
    "collect",
    "default_covariance",
    "file_corpus",
    "hub_corpus",
    "import_npz",
    "layer_in_file_name",
    "merge",
    "open_corpus",
]

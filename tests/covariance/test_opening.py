from __future__ import annotations

import pytest

from collabedit.covariance import open_corpus
from collabedit.errors import InputError


def test_kinds_of_corpora_cannot_be_mixed():
    with pytest.raises(InputError, match="'self' cannot be mixed"):
        open_corpus(["self", "a.txt"], 0)
    with pytest.raises(InputError, match="'hub:a' cannot be mixed"):
        open_corpus(["hub:a", "hub:b"], 0)

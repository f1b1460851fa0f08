"""Let a built-in model write the text that its default covariance is collected on.

``python -m tools.build_written MODEL`` samples as many tokens as the default needs, as
:class:`collabedit.covariance.SelfCorpus` does with seed 0, and stores their ids with the package,
so that users don't have to wait for them and all get the same.
"""

from __future__ import annotations

import argparse
from itertools import chain

import numpy as np

from collabedit.covariance.corpus import Plan
from collabedit.covariance.self_corpus import SelfCorpus
from collabedit.covariance.sizing import default_tokens
from collabedit.covariance.written import written_path
from collabedit.models import load_model
from collabedit.progress import progress


def main() -> None:
    parser = argparse.ArgumentParser("python -m tools.build_written", description=__doc__)
    parser.add_argument("model", help="a built-in model")
    name = parser.parse_args().model
    model, corpus = load_model(name), SelfCorpus(0)
    plan = Plan(default_tokens(model, corpus), max_length=512, chunk_tokens=1)
    texts: list[list[int]] = []
    with progress("Writing", plan.tokens, "tokens") as bar:
        for chunk in corpus.chunks(model, plan, 0, bar.advance):
            texts += map(list, chunk)
            if sum(map(len, texts)) >= plan.tokens:
                break
    assert max(chain.from_iterable(texts)) < 2**16, "the ids are kept in two bytes"
    np.save(written_path(name), np.array(texts, dtype=np.uint16), allow_pickle=False)


if __name__ == "__main__":
    main()

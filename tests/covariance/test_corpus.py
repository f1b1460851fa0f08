from __future__ import annotations

from collabedit.covariance.corpus import grouped


def test_grouped():
    pieces = [[1] * n for n in (3, 1, 5, 2, 1)]
    assert [[len(p) for p in group] for group in grouped(pieces, 4)] == [[3, 1], [5], [2, 1]]
    assert list(grouped([], 4)) == []

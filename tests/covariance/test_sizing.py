from __future__ import annotations

from collabedit.covariance.sizing import layers_at_once, memory_needed


def test_memory_needed(tiny_llama, double_llama):
    assert memory_needed(tiny_llama, [0, 1, 1]) == 2 * 48 * 48 * (8 + 2.5)
    assert memory_needed(double_llama, [0]) == 48 * 48 * (8 + 5)


def test_layers_at_once(tiny_llama, monkeypatch):
    each = memory_needed(tiny_llama, [0])
    assert layers_at_once(tiny_llama, [0, 1, 2]) == 3
    for budget, count in ((1, 1), (2 * each, 1), (4 * each, 2), (100 * each, 3)):
        monkeypatch.setattr(tiny_llama, "memory_budget", budget)
        assert layers_at_once(tiny_llama, [0, 1, 2]) == count

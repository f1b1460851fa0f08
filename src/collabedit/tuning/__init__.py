"""Settings for a new model: causal tracing proposes layers, a search on records decides."""

from collabedit.settings import TuneSettings
from collabedit.tuning.causal_tracing import CausalTrace, Fact, known_facts, trace
from collabedit.tuning.tune import tune

__all__ = ["CausalTrace", "Fact", "TuneSettings", "known_facts", "trace", "tune"]

"""Reproducible runs: a study is a short module over the same round, each ending in a summary."""

from collabedit.experiments.runs import Run, open_run
from collabedit.experiments.single_round import SingleRoundSettings, single_round
from collabedit.experiments.summaries import load_summary

__all__ = ["Run", "SingleRoundSettings", "load_summary", "open_run", "single_round"]

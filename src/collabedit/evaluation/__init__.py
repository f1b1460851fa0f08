"""Measuring edited models: probabilities, accuracies, summaries, generations, perplexity."""

from collabedit.evaluation.cases import CaseResult, Probabilities, evaluate
from collabedit.evaluation.fluency import GenerationResult, evaluate_generations
from collabedit.evaluation.metrics import (
    Metric,
    Summary,
    metric,
    metrics,
    register_metric,
    summarise,
)
from collabedit.evaluation.perplexity import perplexity
from collabedit.evaluation.scoring import TargetScore, score

__all__ = [
    "CaseResult",
    "GenerationResult",
    "Metric",
    "Probabilities",
    "Summary",
    "TargetScore",
    "evaluate",
    "evaluate_generations",
    "metric",
    "metrics",
    "perplexity",
    "register_metric",
    "score",
    "summarise",
]

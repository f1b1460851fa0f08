"""Measuring edited models: probabilities, accuracies, summaries, generations, perplexity."""

from collabedit.evaluation.cases import CaseResult, Probabilities, evaluate
from collabedit.evaluation.fluency import GenerationResult, evaluate_generations
from collabedit.evaluation.perplexity import perplexity
from collabedit.evaluation.scoring import TargetScore, score
from collabedit.evaluation.summary import METRICS, Summary, summarise

__all__ = [
    "METRICS",
    "CaseResult",
    "GenerationResult",
    "Probabilities",
    "Summary",
    "TargetScore",
    "evaluate",
    "evaluate_generations",
    "perplexity",
    "score",
    "summarise",
]

"""Measuring edited models: probabilities, accuracies, summaries, generations, perplexity."""

from collabedit.evaluation.answer_metrics import ANSWER_METRICS
from collabedit.evaluation.answers import Answer, answer_records, sample_of
from collabedit.evaluation.cases import CaseResult, Probabilities, evaluate
from collabedit.evaluation.fluency import GenerationResult, evaluate_generations
from collabedit.evaluation.judging import Judge, OpenAIJudge
from collabedit.evaluation.metrics import (
    Metric,
    Summary,
    metric,
    metrics,
    register_metric,
    summarise,
)
from collabedit.evaluation.outcomes import Outcome, Outcomes, Took, ask_edits, outcomes
from collabedit.evaluation.perplexity import mean_loss, perplexity
from collabedit.evaluation.scoring import TargetScore, score

__all__ = [
    "ANSWER_METRICS",
    "Answer",
    "CaseResult",
    "GenerationResult",
    "Judge",
    "Metric",
    "OpenAIJudge",
    "Outcome",
    "Outcomes",
    "Probabilities",
    "Summary",
    "TargetScore",
    "Took",
    "answer_records",
    "ask_edits",
    "evaluate",
    "evaluate_generations",
    "mean_loss",
    "metric",
    "metrics",
    "outcomes",
    "perplexity",
    "register_metric",
    "sample_of",
    "score",
    "summarise",
]

"""Cost estimates before an edit: memory and time of every stage."""

from collabedit.planning.costs import (
    STAGES,
    Cost,
    ModelShape,
    Texts,
    Workload,
    estimate,
    peak,
)
from collabedit.planning.remedies import Remedy, remedy
from collabedit.planning.trial import Rates, Trial, run_trial, typical_rates

__all__ = [
    "STAGES",
    "Cost",
    "ModelShape",
    "Rates",
    "Remedy",
    "Texts",
    "Trial",
    "Workload",
    "estimate",
    "peak",
    "remedy",
    "run_trial",
    "typical_rates",
]

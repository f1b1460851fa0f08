"""Reproducible runs: a study is a short module over the same round, each ending in a summary."""

from collabedit.experiments.augmentation import AugmentationSettings, augmentation
from collabedit.experiments.conflict import MODES, ConflictSettings, conflict
from collabedit.experiments.editors import EditorsSettings, compare_editors
from collabedit.experiments.forgetting import ForgettingSettings, forgetting
from collabedit.experiments.multi_round import MultiRoundSettings, multi_round
from collabedit.experiments.overlap import OverlapSettings, overlap
from collabedit.experiments.runs import Run, open_run
from collabedit.experiments.single_round import SingleRoundSettings, single_round
from collabedit.experiments.study import StudySettings

__all__ = [
    "MODES",
    "AugmentationSettings",
    "ConflictSettings",
    "EditorsSettings",
    "ForgettingSettings",
    "MultiRoundSettings",
    "OverlapSettings",
    "Run",
    "SingleRoundSettings",
    "StudySettings",
    "augmentation",
    "compare_editors",
    "conflict",
    "forgetting",
    "multi_round",
    "open_run",
    "overlap",
    "single_round",
]

"""Reproducible runs: each study is a short module around the same round, with a summary."""

from collabedit.experiments.augmentation import augmentation
from collabedit.experiments.conflict import conflict
from collabedit.experiments.editors import compare_editors
from collabedit.experiments.forgetting import forgetting
from collabedit.experiments.multi_round import multi_round
from collabedit.experiments.overlap import overlap
from collabedit.experiments.runs import Run, open_run
from collabedit.experiments.single_round import single_round
from collabedit.settings import (
    AugmentationSettings,
    ConflictSettings,
    EditorsSettings,
    ForgettingSettings,
    MultiRoundSettings,
    OverlapSettings,
    SingleRoundSettings,
    StudySettings,
)

__all__ = [
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

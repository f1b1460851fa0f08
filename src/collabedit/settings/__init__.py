"""What studies and tuning depend on: the one place of their defaults.

The command line reads its defaults here, so that nothing here loads torch until settings are
checked.
"""

from collabedit.settings.common import CommonSettings, RunSettings, StudySettings
from collabedit.settings.studies import (
    MODES,
    AugmentationSettings,
    ConflictSettings,
    EditorsSettings,
    ForgettingSettings,
    MultiRoundSettings,
    OverlapSettings,
    SingleRoundSettings,
)
from collabedit.settings.tuning import TuneSettings

__all__ = [
    "MODES",
    "AugmentationSettings",
    "CommonSettings",
    "ConflictSettings",
    "EditorsSettings",
    "ForgettingSettings",
    "MultiRoundSettings",
    "OverlapSettings",
    "RunSettings",
    "SingleRoundSettings",
    "StudySettings",
    "TuneSettings",
]

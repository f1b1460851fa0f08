"""Settings of studies and tuning, and the only home of their defaults.

The command line reads its defaults here, so nothing here loads torch until settings are
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

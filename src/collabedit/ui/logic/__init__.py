"""The page's behaviour without a page: jobs, drafts of edits, the model, rounds, reports."""

from collabedit.ui.logic.drafts import Draft, Note, Review, review
from collabedit.ui.logic.jobs import Job, Jobs, JobState, Status, Stopped
from collabedit.ui.logic.round_desk import RoundDesk, RoundReview, Sent
from collabedit.ui.logic.shelf import Shelf, ShelfRun
from collabedit.ui.logic.workbench import Edited, EditSettings, Neighbour, Said, Workbench

__all__ = [
    "Draft",
    "EditSettings",
    "Edited",
    "Job",
    "JobState",
    "Jobs",
    "Neighbour",
    "Note",
    "Review",
    "RoundDesk",
    "RoundReview",
    "Said",
    "Sent",
    "Shelf",
    "ShelfRun",
    "Status",
    "Stopped",
    "Workbench",
    "review",
]

"""The demonstration: four parties' edits on a real small model, merged in five ways."""

from __future__ import annotations

import shlex
from pathlib import Path

from collabedit.evaluation.outcomes import Outcomes, ask_edits, outcomes
from collabedit.experiments.single_round import single_round
from collabedit.experiments.study import deal, different_records
from collabedit.messages import Delta
from collabedit.models import load_model
from collabedit.progress import plan
from collabedit.progress.plans import study_stages
from collabedit.reporting.outcome_tables import outcome_table
from collabedit.reporting.results import SingleRoundResult
from collabedit.reporting.table import console
from collabedit.reporting.tables import methods_table
from collabedit.settings import SingleRoundSettings

__all__ = ["run_demo"]

#: Only CollabEdit's model answers for all facts; six models would take longer than everything else.
_SETTINGS = SingleRoundSettings(
    parties=4, edits_per_party=8, shared=4, answers=0, conversations=True
)
_SHOWN = 6


def run_demo(results: Path, seed: int) -> None:
    """Run the demonstration and print what a newcomer wants to know.

    Args:
        results: folder of all runs.
        seed: for the partition and all sampling.
    """
    out = console()
    out.print(
        "Four parties each hold eight facts that they want to correct in one model, "
        f"{_SETTINGS.model}.\nAll parties share four of the eight, and no party shows "
        "its facts to another.\nTheir edits are merged in five ways:\n"
    )
    with plan(study_stages(len(_SETTINGS.merge))):
        run = single_round(_SETTINGS.model_copy(update={"seed": seed}), results)
    result = SingleRoundResult.load(run.folder)
    out.print(methods_table(result, "20 facts of 4 parties, merged").rich())
    out.print(
        "ES, PS: how often the new object is likelier than the old one, after the edited prompt\n"
        "and after paraphrases. NS: how often the true object stays likelier for neighbouring\n"
        "facts. Score: their harmonic mean. acc: how often the expected object is the likeliest\n"
        "of all. distance: from the weight update of GLOBAL, one party holding all 32 edits, the\n"
        "shared ones four times; CollabEdit computes the same update, averaging does not.\n"
    )
    came = _outcomes(run.folder, seed)
    out.print(outcome_table(came.each[:_SHOWN]).rich())
    out.print(f"CollabEdit: {came}, asked as edited and in a chat.\n", highlight=False)
    out.print(
        f"Results: {run.folder}/ (summary.json, params.json, case_<id>.json)\n\n"
        "What to try next:\n"
        f"  collabedit report {shlex.quote(str(run.folder))} -o report.html\n"
        "  collabedit run single-round --parties 10 --edits-per-party 10 --merge all\n"
        "  collabedit edit --requests my_facts.jsonl -o edited-model\n"
        "  collabedit round new -o round.json        (edit together with others, by files)\n"
        "  collabedit models list",
        highlight=False,
        markup=False,
    )


def _outcomes(folder: Path, seed: int) -> Outcomes:
    """How all edits turned out, asked raw and in chat, before and after."""
    (shares,) = deal(_SETTINGS.model_copy(update={"seed": seed}))
    records = different_records(shares)
    model = load_model(_SETTINGS.model)
    before = ask_edits(model, records)
    delta = Delta.load(folder / "stages" / "deltas" / "CollabEdit.safetensors")
    with model.edited(delta.changes):
        return outcomes(records, before, ask_edits(model, records))

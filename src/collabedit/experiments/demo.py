"""The demonstration: four parties' edits on a real small model, merged in five ways."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from collabedit.evaluation.outcomes import Outcomes, ask_edits, outcomes
from collabedit.experiments.single_round import single_round
from collabedit.experiments.study import deal, different_records
from collabedit.messages import Delta
from collabedit.models import load_model
from collabedit.reporting.outcome_tables import outcome_table
from collabedit.reporting.results import SingleRoundResult
from collabedit.reporting.table import console
from collabedit.reporting.tables import methods_table
from collabedit.requests import Record
from collabedit.settings import SingleRoundSettings

__all__ = ["FULL", "SMALL", "run_demo"]

#: The whole demonstration. The answers of CollabEdit's model are shown for all facts; those of six
#: models would take longer than everything else.
FULL = SingleRoundSettings(parties=4, edits_per_party=8, shared=4, answers=0, conversations=True)
#: A smaller one, of 6 facts, for slow machines.
SMALL = FULL.model_copy(update={"parties": 2, "edits_per_party": 4, "shared": 2})
_SHOWN = 6


def run_demo(results: Path, settings: SingleRoundSettings = FULL) -> None:
    """Run the demonstration and print what a newcomer wants to see.

    Args:
        results: folder of all runs.
        settings: :data:`FULL` or :data:`SMALL`, with any seed.
    """
    out = console()
    (shares,) = deal(settings)
    records, parties, facts = different_records(shares), len(shares), len(shares[0])
    out.print(
        f"{parties} parties each hold {facts} facts that they want to correct in one model, "
        f"{settings.model}.\nAll parties share {settings.shared} of the {facts}, and no party "
        "shows its facts to another.\n"
        f"Their edits are merged in {len(settings.merge)} ways:\n",
        highlight=False,
    )
    run = single_round(settings, results)
    result = SingleRoundResult.load(run.folder)
    out.print(methods_table(result, f"{len(records)} facts of {parties} parties, merged").rich())
    out.print(
        "ES, PS: how often the new object is likelier than the old one, after the edited prompt\n"
        "and after paraphrases. NS: how often the true object stays likelier for neighbouring\n"
        "facts. Score: their harmonic mean. acc: how often the expected object is the likeliest\n"
        "of all. distance: from the weight update of GLOBAL, one party holding all "
        f"{parties * facts} edits, the\nshared ones {parties} times; CollabEdit computes the same "
        "update, averaging does not.\n",
        highlight=False,
    )
    answered = _outcomes(run.folder, settings, records)
    out.print(outcome_table(answered.each[:_SHOWN]).rich())
    out.print(f"CollabEdit: {answered}, asked as edited and in a chat.\n", highlight=False)
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


def _outcomes(folder: Path, settings: SingleRoundSettings, records: Sequence[Record]) -> Outcomes:
    """How all edits turned out, asked raw and in chat, before and after."""
    model = load_model(settings.model)
    before = ask_edits(model, records)
    delta = Delta.load(folder / "stages" / "deltas" / "CollabEdit.safetensors")
    with model.edited(delta.changes):
        return outcomes(records, before, ask_edits(model, records))

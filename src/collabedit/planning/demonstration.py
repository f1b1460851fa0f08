"""Which demonstration this machine finishes in a few minutes, judged by a short trial."""

from __future__ import annotations

from collabedit.covariance.sizing import TOKENS_PER_INPUT
from collabedit.editors import default_hyperparameters, resolve_editor
from collabedit.experiments.demo import FULL, SMALL
from collabedit.experiments.study import deal, different_records
from collabedit.models.loading import load_structure_only
from collabedit.models.structure import ModelStructure, infer_structure
from collabedit.planning.costs import ModelShape, Texts, Workload, estimate
from collabedit.planning.trial import Rates, run_trial
from collabedit.progress import duration, say
from collabedit.settings import SingleRoundSettings

__all__ = ["MOST_SECONDS", "demonstration_for", "expected_seconds"]

#: Longest time that the full demonstration may take.
MOST_SECONDS = 300.0
#: Averages of the demonstration's texts, including conversations and what must not change.
TEXTS = Texts(tokens=10.7, suffix=11.0, target=5.3, contexts=6, context=21.9, keys=2)
#: The trial: edits, steps of their targets, and tokens of the covariance.
_EDITS, _STEPS, _TOKENS = 4, 3, 1024
#: Methods that measure the keys of all parties; for all others, keys are measured only once.
_POOLED = {"GLOBAL", "CollabEdit"}


def demonstration_for() -> SingleRoundSettings:
    """The full demonstration, or the small one (with a message) if that would take too long."""
    structure, shape = _model()
    work = _workload(FULL, structure, shape)
    say("Measuring how fast this machine is; --full skips this.")
    trial = run_trial(
        FULL.source.load,
        work.with_changes(
            hyperparameters=work.hyperparameters.with_changes(target_steps=_STEPS, loss_threshold=0)
        ),
        edits=_EDITS,
        tokens=_TOKENS,
        saving=False,
    )
    whole = expected_seconds(FULL, work, shape, trial.rates)
    if whole <= MOST_SECONDS:
        return FULL
    small = expected_seconds(SMALL, _workload(SMALL, structure, shape), shape, trial.rates)
    say(
        f"The full demonstration would take about {duration(whole)} here, so this is a smaller "
        f"one that takes about {duration(small)}; to run all of it: collabedit demo --full"
    )
    return SMALL


def expected_seconds(
    settings: SingleRoundSettings, work: Workload, shape: ModelShape, rates: Rates
) -> float:
    """How long a demonstration takes once the model is loaded, with empty caches.

    Args:
        settings: the demonstration's settings.
        work: what it has to do.
        shape: its model's shape.
        rates: rates from a trial.
    """
    (shares,) = deal(settings)
    edits = sum(map(len, shares))
    methods = len(settings.merge)
    pooled = len(_POOLED.intersection(settings.merge))
    keys = pooled + (pooled < methods)  # the parties' own updates serve all other methods
    costs = estimate(shape, work)
    times = {stage: costs[stage].amount / rates[stage] for stage in rates}
    times["keys"] *= keys * edits / work.edits
    times["evaluation"] *= (1 + methods) / 2
    return sum(seconds for stage, seconds in times.items() if stage != "load")


def _model() -> tuple[ModelStructure, ModelShape]:
    """The structure and shape of the demonstrations' model, without its weights."""
    hf = load_structure_only(FULL.model)
    structure = infer_structure(hf)
    return structure, ModelShape.of(hf, structure)


def _workload(
    settings: SingleRoundSettings, structure: ModelStructure, shape: ModelShape
) -> Workload:
    """What a demonstration has to do, with all its distinct facts."""
    (shares,) = deal(settings)
    return Workload(
        edits=len(different_records(shares)),
        editor=resolve_editor(settings.editor),
        schedule=settings.schedule,
        hyperparameters=default_hyperparameters(
            settings.model, structure, settings.editor
        ).hyperparameters,
        tokens=TOKENS_PER_INPUT * shape.mlp,
        own_text=False,
        texts=TEXTS,
    )

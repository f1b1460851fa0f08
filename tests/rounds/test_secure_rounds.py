"""Rounds under secure aggregation: the delta of the plain round, over the same transport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from collabedit.algebra import relative_distance
from collabedit.editors import Hyperparameters, default_hyperparameters
from collabedit.errors import CollabEditError, InputError, RoundError
from collabedit.merging import resolve_method
from collabedit.messages import (
    SUMMATION_STEPS,
    Delta,
    Request,
    RequestKind,
    RoundConfig,
    Schedule,
    SecureAggregation,
)
from collabedit.models import LanguageModel
from collabedit.parties import Party, new_round
from collabedit.privacy.secure import Identity, SecureParty
from collabedit.rounds import Coordinator, Dropout, Failure, run_round
from collabedit.transports import InProcess, run_in_process
from tests.editing.facts import CONTEXTS, REQUESTS
from tests.rounds.test_round import SCHEDULES, SETTINGS, edited_by, make_parties, make_priors

NAMES = ("bank", "clinic", "hospital")
IDENTITIES = [Identity(name, name.encode().ljust(32)) for name in NAMES]


@pytest.fixture
def tiny_llama(exact_llama: LanguageModel) -> LanguageModel:
    return exact_llama


def secure_round(
    model: LanguageModel,
    schedule: Schedule = Schedule.LAYERWISE,
    form: str = "sketched",
    editor: str = "MEMIT",
    settings: Hyperparameters = SETTINGS,
    threshold: int = 2,
) -> RoundConfig:
    secure = SecureAggregation(
        roster={each.party: each.public for each in IDENTITIES},
        threshold=threshold,
        max_edits=10,
        form=form,  # type: ignore[arg-type]
    )
    return new_round(
        model,
        editor=editor,
        schedule=schedule,
        hyperparameters=settings,
        contexts=CONTEXTS,
        secure_aggregation=secure,
    )


def secure_parties(model: LanguageModel, config: RoundConfig) -> list[Party]:
    parts = REQUESTS[:1], REQUESTS[1:4], REQUESTS[4:6]
    return [
        Party(model, list(own), config, secure=SecureParty(identity, config))
        for own, identity in zip(parts, IDENTITIES, strict=True)
    ]


def coordinator_of(config: RoundConfig) -> Coordinator:
    return Coordinator(config, make_priors(config), resolve_method("CollabEdit"))


@pytest.mark.parametrize("form", ["dense", "sketched"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_delta_equals_that_of_the_plain_round(
    tiny_llama: LanguageModel, schedule: Schedule, form: str
) -> None:
    config = secure_round(tiny_llama, schedule, form)
    coordinator = coordinator_of(config)
    found = run_in_process(secure_parties(tiny_llama, config), coordinator)
    plain = new_round(tiny_llama, schedule=schedule, hyperparameters=SETTINGS, contexts=CONTEXTS)
    expected = edited_by("CollabEdit", make_parties(tiny_llama, plain))
    for name, change in expected.changes.items():
        assert relative_distance(found.changes[name], change) < 1e-9
    assert (found.metadata.parties, found.metadata.edits) == (3, 6)
    assert all(e.edits == 0 for x in coordinator.ledger.exchanges for e in x.entries)


@pytest.mark.parametrize(
    ("editor", "layers"), [("PMET", (1, 2)), ("AlphaEdit", (1, 2)), ("EMMET", (1,))]
)
def test_closed_form_editors_match_the_plain_round(
    tiny_llama: LanguageModel, editor: str, layers: tuple[int, ...]
) -> None:
    settings = SETTINGS.with_changes(layers=layers)
    config = secure_round(tiny_llama, editor=editor, settings=settings)
    found = run_in_process(secure_parties(tiny_llama, config), coordinator_of(config))
    plain = new_round(tiny_llama, editor=editor, hyperparameters=settings, contexts=CONTEXTS)
    expected = edited_by("CollabEdit", make_parties(tiny_llama, plain))
    for name, change in expected.changes.items():
        assert relative_distance(found.changes[name], change) < 1e-9


class Leaving(InProcess):
    """A transport on which a party is gone from some step of an exchange on."""

    def __init__(self, parties: Sequence[Party], step: RequestKind, layers_done: int = 0) -> None:
        super().__init__(parties)
        self.step, self.layers_done, self.gone = step, layers_done, False
        self.merged = 0

    def exchange(self, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        asked = Request.from_bytes(request)
        if asked.kind is RequestKind.ADVERTISE:
            self.merged += 1
        self.gone |= asked.kind is self.step and self.merged > self.layers_done
        present = [name for name in to if not (self.gone and name == "clinic")]
        return dict(super().exchange(request, present))


@pytest.mark.parametrize("step", SUMMATION_STEPS)
def test_a_party_that_leaves_does_not_break_the_sum(
    tiny_llama: LanguageModel, step: RequestKind
) -> None:
    config = secure_round(tiny_llama, Schedule.ONE_SHOT)
    transport = Leaving(secure_parties(tiny_llama, config), step)
    found = run_round(transport, coordinator_of(config), on_dropout=Dropout.CONTINUE)
    in_sum = step in (RequestKind.CONFIRM, RequestKind.UNMASK)
    plain = new_round(
        tiny_llama, schedule=Schedule.ONE_SHOT, hyperparameters=SETTINGS, contexts=CONTEXTS
    )
    parties = make_parties(tiny_llama, plain)
    expected = edited_by("CollabEdit", parties if in_sum else [parties[0], parties[2]])
    for name, change in expected.changes.items():
        assert relative_distance(found.changes[name], change) < 1e-9
    with pytest.raises(RoundError, match="clinic: it did not answer; nothing was merged"):
        run_round(Leaving(secure_parties(tiny_llama, config), step), coordinator_of(config))


def test_a_party_that_leaves_after_a_sum_stops_a_layerwise_round(
    tiny_llama: LanguageModel,
) -> None:
    config = secure_round(tiny_llama)
    transport = Leaving(secure_parties(tiny_llama, config), RequestKind.MASK, layers_done=1)
    with pytest.raises(
        RoundError, match="no contribution from clinic, which took part in the first"
    ):
        run_round(transport, coordinator_of(config), on_dropout=Dropout.CONTINUE)


def refusal(call: object) -> str:
    with pytest.raises(CollabEditError) as caught:
        call()  # type: ignore[operator]
    return str(caught.value)


def test_what_cannot_work_on_sums_is_refused(tiny_llama: LanguageModel) -> None:
    config = secure_round(tiny_llama, Schedule.ONE_SHOT)
    for name in ("SA", "TA", "TIES"):
        with pytest.raises(RoundError, match="own update, which secure aggregation hides"):
            Coordinator(config, make_priors(config), resolve_method(name))
    with pytest.raises(InputError, match="difference of two sums"):
        run_round(
            InProcess(secure_parties(tiny_llama, config)),
            coordinator_of(config),
            on_dropout=Dropout.RESTART,
        )
    with pytest.raises(InputError, match="secure aggregation has nothing to sum"):
        secure_round(tiny_llama, editor="ROME", settings=SETTINGS.with_changes(layers=(1,)))


@pytest.mark.parametrize("editor", ["ROME", "UltraEdit"])
def test_a_round_file_cannot_ask_for_what_sums_hide(tiny_llama: LanguageModel, editor: str) -> None:
    """UltraEdit's normaliser reveals a party's mean features; for a single edit, its key."""
    plain = new_round(
        tiny_llama,
        editor=editor,
        hyperparameters=default_hyperparameters(
            "none", tiny_llama.structure, editor
        ).hyperparameters.with_changes(layers=(1,)),
        contexts=CONTEXTS,
    )
    section = secure_round(tiny_llama).secure_aggregation
    values = {**plain.model_dump(mode="json"), "secure_aggregation": section}
    with pytest.raises(ValueError, match=f"{editor} does not edit by sums"):
        RoundConfig(**values)


def test_a_party_that_sums_sends_no_contribution_of_its_own(tiny_llama: LanguageModel) -> None:
    config = secure_round(tiny_llama)
    party = secure_parties(tiny_llama, config)[0]
    request = Request(RequestKind.CONTRIBUTE, Delta.empty(config)).to_bytes()
    with pytest.raises(RoundError, match="takes part in sums only; refused"):
        party.answer(request)


def test_a_plain_round_keeps_its_hash(tiny_llama: LanguageModel) -> None:
    plain = new_round(tiny_llama, hyperparameters=SETTINGS, contexts=CONTEXTS)
    later = {"secure_aggregation", "bounds", "gate", "experts"}
    values = plain.model_dump(mode="json", exclude=later)
    from collabedit.files import sha256_of_json

    assert plain.sha256 == sha256_of_json(values)
    assert secure_round(tiny_llama).sha256 != plain.sha256

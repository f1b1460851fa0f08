"""All exchanges of a round have the same parties with the same edits, each once."""

from __future__ import annotations

import pytest

from collabedit.errors import ContributionError, RoundError
from collabedit.messages import Contribution, Delta
from collabedit.models import LanguageModel
from collabedit.parties import Party
from collabedit.rounds import Coordinator
from tests.editing.facts import REQUESTS
from tests.rounds.test_loop import coordinator_of
from tests.rounds.test_round import make_round


@pytest.fixture
def parties(tiny_llama: LanguageModel) -> dict[str, Party]:
    config = make_round(tiny_llama)
    return {
        "hospital": Party(tiny_llama, REQUESTS[:3], config),
        "bank": Party(tiny_llama, REQUESTS[3:4], config),
    }


def sent(parties: dict[str, Party], delta: Delta) -> dict[str, Contribution]:
    for party in parties.values():
        party.prepare()
    return {name: party.contribute(delta) for name, party in parties.items()}


@pytest.fixture
def begun(parties: dict[str, Party]) -> Coordinator:
    """A coordinator after the first of two exchanges."""
    coordinator = coordinator_of(parties["bank"].config)
    coordinator.merge(sent(parties, coordinator.delta))
    return coordinator


def test_the_second_exchange_of_the_same_parties_is_merged(
    parties: dict[str, Party], begun: Coordinator
) -> None:
    answers = sent(parties, begun.delta)
    begun.merge(dict(reversed(answers.items())))  # in any order, under any file name
    assert begun.delta.metadata.complete
    assert begun.keys.keys() == set(begun.config.weight_names)


def test_a_missing_party_is_named(parties: dict[str, Party], begun: Coordinator) -> None:
    answers = sent(parties, begun.delta)
    del answers["bank"]
    with pytest.raises(RoundError, match="no contribution from bank, which took part in the first"):
        begun.merge(answers)
    assert not begun.delta.metadata.complete


def test_another_party_is_refused(
    tiny_llama: LanguageModel, parties: dict[str, Party], begun: Coordinator
) -> None:
    late = {"newsroom": Party(tiny_llama, REQUESTS[4:], begun.config)}
    answers = {**sent(parties, begun.delta), **sent(late, begun.delta)}
    with pytest.raises(ContributionError, match="newsroom: its party and edits did not") as caught:
        begun.merge(answers)
    assert caught.value.party == "newsroom"


def test_other_edits_of_a_party_are_refused(
    tiny_llama: LanguageModel, parties: dict[str, Party], begun: Coordinator
) -> None:
    """The same party with the same secret and the same number of edits, but others."""
    bank = parties["bank"]
    parties["bank"] = Party(tiny_llama, REQUESTS[4:5], begun.config, secret=bank._secret)
    with pytest.raises(ContributionError, match="bank: its party and edits did not take part"):
        begun.merge(sent(parties, begun.delta))


def test_a_separate_process_commits_to_the_same_edits(
    tiny_llama: LanguageModel, parties: dict[str, Party], begun: Coordinator
) -> None:
    """As in a round by files, where each exchange is a separate process with the same secret."""
    again = {
        name: Party(tiny_llama, party.requests, begun.config, secret=party._secret)
        for name, party in parties.items()
    }
    begun.merge(sent(again, begun.delta))
    assert begun.delta.metadata.complete


@pytest.mark.parametrize("fresh", [False, True], ids=["the same file", "made again"])
def test_the_same_contribution_under_two_names_is_refused(
    parties: dict[str, Party], fresh: bool
) -> None:
    coordinator = coordinator_of(parties["bank"].config)
    answers = sent(parties, coordinator.delta)
    copy = sent(parties, coordinator.delta)["bank"] if fresh else answers["bank"]
    with pytest.raises(ContributionError, match="copy: it repeats the contribution of bank"):
        coordinator.merge({**answers, "copy": copy})
    assert not coordinator.delta.changes


def test_two_parties_may_hold_the_same_edits(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    twins = {name: Party(tiny_llama, REQUESTS[:2], config) for name in ("hospital", "bank")}
    coordinator = coordinator_of(config)
    coordinator.merge(sent(twins, coordinator.delta))
    assert coordinator.delta.metadata.parties == 2


def test_a_commitment_reveals_nothing_without_the_secret(tiny_llama: LanguageModel) -> None:
    config = make_round(tiny_llama)
    empty = Delta.empty(config)
    marks = {
        Party(tiny_llama, REQUESTS[:1], config).contribute(empty).metadata.commitment
        for _ in range(2)
    }
    assert len(marks) == 2


def test_a_late_party_does_not_prepare_on_an_edited_model(
    tiny_llama: LanguageModel, begun: Coordinator
) -> None:
    late = Party(tiny_llama, REQUESTS[4:], begun.config)
    with (
        tiny_llama.edited(begun.delta.changes),
        pytest.raises(RoundError, match=r"targets are found on the unedited model, so prepare\(\)"),
    ):
        late.contribute(begun.delta)

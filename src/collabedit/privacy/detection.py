"""Overlaps and conflicts between parties, found with fingerprints, and how to settle them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from collabedit.errors import ContributionError, InputError, UnknownNameError
from collabedit.messages import ContributionMetadata, Decision, Fingerprint, Policy
from collabedit.messages.decision import identify

__all__ = ["Detection", "SharedQuestion", "check_preferred", "decide", "detect", "left_out"]


@dataclass(frozen=True)
class SharedQuestion:
    """A question that more than one edit answers.

    Attributes:
        question: its fingerprint.
        answers: party and fingerprint of the target, one per edit, in the order of the parties.
    """

    question: str
    answers: tuple[tuple[str, str], ...]

    @property
    def overlaps(self) -> bool:
        """Whether two edits write the same object."""
        return len({target for _, target in self.answers}) < len(self.answers)

    @property
    def conflicts(self) -> bool:
        """Whether two edits write different objects."""
        return len({target for _, target in self.answers}) > 1

    def overlaps_between(self, first: str, second: str) -> bool:
        """Whether two parties write the same object, or one that is named twice repeats itself."""
        ours, theirs = self._targets_of(first), self._targets_of(second)
        if first == second:
            return len(set(ours)) < len(ours)
        return not set(ours).isdisjoint(theirs)

    def conflicts_between(self, first: str, second: str) -> bool:
        """Whether two parties differ, or one that is named twice contradicts itself."""
        ours, theirs = self._targets_of(first), self._targets_of(second)
        return bool(ours) and bool(theirs) and len({*ours, *theirs}) > 1

    def _targets_of(self, party: str) -> list[str]:
        return [target for name, target in self.answers if name == party]


@dataclass(frozen=True)
class Detection:
    """What the contributions of one exchange have in common.

    Attributes:
        fingerprints: by party, sorted.
        questions: those that more than one edit answers.
        subjects: the parties that edit different facts about the same subject, by the subject's
            fingerprint.
    """

    fingerprints: Mapping[str, tuple[Fingerprint, ...]]
    questions: tuple[SharedQuestion, ...]
    subjects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def twins(self) -> Mapping[str, str]:
        """For each party with exactly the edits of an earlier one, that earlier party.

        A decision can't tell them apart, so exactly one of them must be merged.
        """
        first: dict[tuple[Fingerprint, ...], str] = {}
        earliest = {p: first.setdefault(prints, p) for p, prints in self.fingerprints.items()}
        return {party: twin for party, twin in earliest.items() if twin != party}

    @property
    def overlaps(self) -> tuple[SharedQuestion, ...]:
        """The questions to which a target is given twice, by two parties or by one."""
        return tuple(question for question in self.questions if question.overlaps)

    @property
    def conflicts(self) -> tuple[SharedQuestion, ...]:
        """The questions to which different targets are given; they may overlap as well."""
        return tuple(question for question in self.questions if question.conflicts)

    def overlaps_between(self, first: str, second: str) -> int:
        """Number of questions that overlap between two parties, or within one named twice."""
        return sum(question.overlaps_between(first, second) for question in self.questions)

    def conflicts_between(self, first: str, second: str) -> int:
        """Number of questions in conflict between two parties, or within one named twice."""
        return sum(question.conflicts_between(first, second) for question in self.questions)


def detect(updates: Mapping[str, ContributionMetadata]) -> Detection:
    """Find the questions that several edits answer.

    Args:
        updates: by a name for each party; their order matters to :func:`decide`.

    Raises:
        ContributionError: when a contribution carries no fingerprints, or some under another key.
    """
    _check_comparable(updates)
    fingerprints = {party: tuple(sorted(about.fingerprints)) for party, about in updates.items()}
    answers = defaultdict(list)
    for party, prints in fingerprints.items():
        for edit in prints:
            answers[edit.question].append((party, edit.target))
    shared = (SharedQuestion(q, tuple(given)) for q, given in answers.items() if len(given) > 1)
    questions = tuple(sorted(shared, key=lambda s: s.question))
    return Detection(fingerprints, questions, _shared_subjects(fingerprints))


def _shared_subjects(
    fingerprints: Mapping[str, Sequence[Fingerprint]],
) -> dict[str, tuple[str, ...]]:
    """The subjects about which several parties edit different facts.

    Each party finds its change without the others', and all changes act at nearly the same key.
    """
    asked: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for party, prints in fingerprints.items():
        for edit in prints:
            if edit.subject:
                asked[edit.subject][party].add(edit.question)
    return {
        subject: tuple(by_party)
        for subject, by_party in sorted(asked.items())
        if len({frozenset(questions) for questions in by_party.values()}) > 1
    }


def decide(detection: Detection, policy: Policy, prefer: str | None = None) -> Decision:
    """Settle all shared questions, so that at most one edit of each stays.

    A party that contradicts itself, and whose answer stays, keeps one of its targets; which one
    can't be chosen, since fingerprints carry no order.

    Args:
        detection: what the parties have in common.
        policy: whose edits stay.
        prefer: the party that ``Policy.PREFER`` names.

    Raises:
        InputError: when a party is named without that policy, or the policy without a party.
        UnknownNameError: when there is no such party.
    """
    check_preferred(policy, prefer)
    if prefer is not None and prefer not in detection.fingerprints:
        raise UnknownNameError("party", prefer, detection.fingerprints)
    order = {party: rank for rank, party in enumerate(detection.fingerprints)}
    if prefer is not None:
        order[prefer] = -1
    stays = {}
    if policy is not Policy.REPORT:
        stays = {shared.question: _stays(shared, policy, order) for shared in detection.questions}
    leave_out: dict[str, tuple[int, ...]] = {}
    for party, prints in detection.fingerprints.items():
        surplus = _surplus(party, prints, stays)
        identity = identify(prints)
        # Parties with identical edits can't be told apart: one keeps what stays, the others keep
        # nothing.
        leave_out[identity] = min(surplus, leave_out.get(identity, surplus), key=len)
    return Decision(policy=policy, leave_out=leave_out)


def check_preferred(policy: Policy | None, prefer: str | None) -> None:
    """Check that a party to prefer is given with the policy that needs one, and no other.

    Raises:
        InputError: when it is not.
    """
    if (policy is Policy.PREFER) != (prefer is not None):
        raise InputError("the policy 'prefer', and no other, needs the party to prefer (--prefer)")


def left_out(fingerprints: Sequence[Fingerprint], decision: Decision) -> set[int]:
    """Which of a party's edits a decision leaves out; the first of any duplicates stays.

    Args:
        fingerprints: of the edits, in their order.
        decision: the coordinator's.

    Returns:
        Indices of the edits.

    Raises:
        RoundError: when the decision is about other parties.
    """
    order = sorted(range(len(fingerprints)), key=lambda index: fingerprints[index])
    return {order[index] for index in decision.places(fingerprints)}


def _check_comparable(updates: Mapping[str, ContributionMetadata]) -> None:
    first = next(iter(updates), "")
    for party, about in updates.items():
        if not about.fingerprints:
            raise ContributionError(
                f"{party}: it has no fingerprints; make it with 'collabedit contribute "
                "--fingerprint-key FILE'"
            )
        if about.fingerprint_key_id != updates[first].fingerprint_key_id:
            raise ContributionError(
                f"{party} and {first}: their fingerprints were made with different keys; "
                "all parties must use the same key file"
            )


def _stays(
    shared: SharedQuestion, policy: Policy, order: Mapping[str, int]
) -> tuple[str, str] | None:
    """The party and target that stay; ``None`` if all leave the question out."""
    if policy is Policy.DROP and shared.conflicts:
        return None
    votes: dict[str, int] = defaultdict(int)
    if policy is Policy.MAJORITY:
        for _, target in set(shared.answers):
            votes[target] += 1
    return min(shared.answers, key=lambda given: (-votes[given[1]], order[given[0]], given[1]))


def _surplus(
    party: str,
    prints: Sequence[Fingerprint],
    stays: Mapping[str, tuple[str, str] | None],
) -> tuple[int, ...]:
    """Indices of the fingerprints that the party leaves out, including repeated ones."""
    surplus, kept = [], set()
    for index, edit in enumerate(prints):
        if edit.question not in stays:
            continue
        if stays[edit.question] == (party, edit.target) and edit.question not in kept:
            kept.add(edit.question)
        else:
            surplus.append(index)
    return tuple(surplus)

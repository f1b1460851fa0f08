"""Attacks on contributions, sums, deltas and masked sums: who holds which fact?

The attacker has the model, the round file and a list of candidate facts. Attacks:

- ``span``: a member's key is in the span of the keys that were sent (for a delta: ``A0^-1 k`` in
  its row space, if the covariance is available);
- ``residual``: the statistics map the candidate's key to the residual that its target requires;
  the attacker finds targets as the parties do;
- ``subject``: like ``span`` for the bare subject, for an attacker who does not know the prompt: a
  search over subjects in a delta's row space (after KSTER, arXiv 2602.10134);
- ``behaviour``: the edited model gives the candidate's object more probability than the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collabedit.algebra import Prior
from collabedit.editing import find_targets
from collabedit.editing.keys import Measurement, measure
from collabedit.editing.targets import TargetCache
from collabedit.errors import InputError, RoundError
from collabedit.evaluation import score
from collabedit.files import tensor_metadata
from collabedit.messages import Contribution, Delta, MaskedSum, RoundConfig
from collabedit.models import LanguageModel
from collabedit.privacy.audit import (
    Curve,
    curve_of,
    residual_match,
    span_energy,
    verdict,
    weighted_energy,
)
from collabedit.requests import EditRequest
from collabedit.rounds import Ledger

__all__ = ["ATTACKS", "Audit", "Candidates", "Finding", "Sent", "likeliest", "load_sent", "report"]

ATTACKS = ("span", "residual", "subject", "behaviour")


@dataclass(frozen=True, eq=False)
class Sent:
    """What the attacker knows from one file, by weight name.

    Attributes:
        name: the file's name.
        kind: ``contribution``, ``sum``, ``delta`` or ``masked``.
        keys: columns ``[d_in, r]`` that span what it reveals of keys.
        residuals: the matching ``[d_out, r]``, if it has any.
        delta: the delta, if it is one.
    """

    name: str
    kind: str
    keys: Mapping[str, Tensor]
    residuals: Mapping[str, Tensor]
    delta: Delta | None = None

    @classmethod
    def of_contribution(cls, name: str, sent: Contribution) -> Sent:
        """A party's plain contribution."""
        factors = sent.statistics
        return cls(
            name,
            "contribution",
            {weight: factor.keys for weight, factor in factors.items()},
            {weight: factor.residuals for weight, factor in factors.items()},
        )

    @classmethod
    def of_delta(cls, name: str, delta: Delta) -> Sent:
        """The merged outcome of a round."""
        rows = {weight: change.right.T for weight, change in delta.changes.items()}
        return cls(name, "delta", rows, {}, delta)

    @classmethod
    def of_masked(cls, name: str, sent: MaskedSum, config: RoundConfig) -> Sent:
        """A party's masked sum, read as if it were unmasked."""
        from collabedit.algebra.sketch import OVERSAMPLING
        from collabedit.privacy.secure import secure_of
        from collabedit.privacy.secure.fixed_point import decode

        secure = secure_of(config)
        values = torch.from_numpy(decode(sent.masked.numpy().view("uint64"), secure.fraction_bits))
        width = config.summed_directions + OVERSAMPLING
        if not config.sketched:
            raise InputError(f"{name}: masked sums are audited in the sketched form only")
        per_layer = (config.d_in + config.d_out) * width
        layers = (len(values) - 1) // per_layer
        parts = values[:-1].view(layers, -1, width)[:, : config.d_in]
        return cls(name, "masked", dict(zip(config.weight_names, parts, strict=False)), {})


def load_sent(path: Path, config: RoundConfig) -> Sent:
    """Read any file that a round sends or keeps.

    Raises:
        InputError: when it is not such a file.
    """
    kind = tensor_metadata(path, "file").get("format")
    if kind in ("collabedit.contribution", "collabedit.update"):
        return Sent.of_contribution(str(path), Contribution.load(path))
    if kind == "collabedit.delta":
        delta = Delta.load(path)
        delta.check_round(config)
        return Sent.of_delta(str(path), delta)
    if kind == "collabedit.ledger":
        return Sent(str(path), "sum", Ledger.load(path).keys, {})
    if kind == "collabedit.masked-sum":
        return Sent.of_masked(str(path), MaskedSum.load(path), config)
    raise InputError(f"{path}: nothing to audit; give contributions, ledgers, deltas, masked sums")


@dataclass(frozen=True, eq=False)
class Candidates:
    """What an attacker computes for candidate facts on the public model.

    Attributes:
        model: the unedited model.
        requests: the candidates.
        config: the round.
        priors: by weight name, if the covariance is available.
    """

    model: LanguageModel
    requests: Sequence[EditRequest]
    config: RoundConfig
    priors: Mapping[str, Prior]

    @cached_property
    def _measured(self) -> Measurement:
        return self._measure(self.requests)

    @cached_property
    def _of_subjects(self) -> Measurement:
        return self._measure([replace(request, prompt="{}") for request in self.requests])

    def _measure(self, requests: Sequence[EditRequest]) -> Measurement:
        config = self.config
        measured = measure(
            self.model,
            requests,
            config.contexts,
            config.layers,
            config.layers[-1],
            separate=config.separate_keys,
        )
        return measured.first_keys(config.keys_per_edit)

    def keys(self, weight: str, *, subjects: bool = False) -> Tensor:
        """Keys ``[d_in, n]``, of the bare subjects or of the whole prompts."""
        measured = self._of_subjects if subjects else self._measured
        return measured.keys[self.config.layers[self.config.weight_names.index(weight)]]

    @cached_property
    def residuals(self) -> Tensor:
        """``z - h [d_out, n]``, with targets as the parties find them."""
        targets = find_targets(
            self.model,
            self.requests,
            self.config.contexts,
            self.config.hyperparameters,
            cache=TargetCache(),
        )
        return targets.double() - self._measured.hidden

    @cached_property
    def _likelihoods(self) -> Tensor:
        return self._score()

    def _score(self) -> Tensor:
        pairs = [(request.text, request.target_new) for request in self.requests]
        return torch.tensor([-result.nll for result in score(self.model, pairs)])

    def rise(self, delta: Delta) -> Tensor:
        """How much a delta raises the mean log-likelihood of each object, ``[n]``."""
        delta.require_complete()
        with self.model.edited(delta.changes):
            after = self._score()
        return after - self._likelihoods

    def attacked(self, attack: str, sent: Sent) -> Tensor | None:
        """The scores of an attack on a file, ``[n]``; ``None`` if it does not apply."""
        if attack == "behaviour":
            return None if sent.delta is None else self.rise(sent.delta)
        if attack == "residual":
            return self._residual_scores(sent) if sent.residuals else None
        subjects = attack == "subject"
        energies = [
            self._energy(sent, weight, self.keys(weight, subjects=subjects)) for weight in sent.keys
        ]
        return torch.stack(energies).mean(0)

    def _energy(self, sent: Sent, weight: str, keys: Tensor) -> Tensor:
        columns, prior = sent.keys[weight], self.priors.get(weight)
        if sent.kind == "masked":
            return weighted_energy(columns, keys)
        if prior is None:
            return span_energy(columns, keys)
        whitened = prior.whiten(keys)
        if sent.kind == "delta":
            return span_energy(columns, prior.unwhiten(whitened))
        return span_energy(prior.whiten(columns), whitened)

    def _residual_scores(self, sent: Sent) -> Tensor:
        scores = [
            residual_match(columns, sent.residuals[weight], self.keys(weight), self.residuals)
            for weight, columns in sent.keys.items()
        ]
        return torch.stack(scores).mean(0)


@dataclass(frozen=True)
class Finding:
    """The result of one attack.

    Attributes:
        attack: its name.
        question: ``membership`` (is the fact in this file, or in any of these files?) or
            ``attribution`` (which of the files holds it?).
        source: the files.
        curve: its ROC curve.
        verdict: in words.
    """

    attack: str
    question: str
    source: str
    curve: Curve
    verdict: str

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class Audit:
    """Attacks on files when it is known who holds which candidate.

    Args:
        candidates: the facts that the attacker tries.
        members: for each file, the indices of the candidates that its party holds.
    """

    def __init__(self, candidates: Candidates, members: Sequence[set[int]]) -> None:
        self.candidates, self._members = candidates, [frozenset(held) for held in members]
        everyone = frozenset().union(*self._members)
        if not everyone or len(everyone) == len(candidates.requests):
            raise InputError(
                "an audit needs candidates that are members and candidates that are not"
            )
        self._others = [i for i in range(len(candidates.requests)) if i not in everyone]
        self._everyone = sorted(everyone)

    def run(self, sent: Sequence[Sent], attacks: Sequence[str]) -> list[Finding]:
        """All attacks on all files.

        Args:
            sent: the files, each from one owner.
            attacks: their names.

        Raises:
            RoundError: when a delta is unfinished.
        """
        findings = []
        for attack in attacks:
            scores = {file.name: self.candidates.attacked(attack, file) for file in sent}
            applied = {name: values for name, values in scores.items() if values is not None}
            for file, held in zip(sent, self._members, strict=True):
                if file.name in applied:
                    findings.append(self._membership(attack, file, applied[file.name], held))
            if len(applied) == len(sent) > 1:
                findings.append(self._attribution(attack, sent, list(applied.values())))
        return findings

    def _membership(self, attack: str, sent: Sent, scores: Tensor, held: frozenset[int]) -> Finding:
        curve = curve_of(_at(scores, sorted(held)), _at(scores, self._others))
        source = f"{sent.kind} {sent.name}"
        return Finding(attack, "membership", source, curve, verdict(curve.auc))

    def _attribution(self, attack: str, sent: Sequence[Sent], scores: list[Tensor]) -> Finding:
        """Among members only: does a party's own fact score higher there than another party's?"""
        ours: list[float] = []
        theirs: list[float] = []
        for values, held in zip(scores, self._members, strict=True):
            ours += _at(values, sorted(held))
            theirs += _at(values, [index for index in self._everyone if index not in held])
        curve = curve_of(ours, theirs)
        source = f"{sent[0].kind} of {len(sent)} parties"
        return Finding(attack, "attribution", source, curve, verdict(curve.auc))


def likeliest(
    candidates: Candidates, sent: Sequence[Sent], attacks: Sequence[str], count: int = 10
) -> list[dict[str, Any]]:
    """What an attacker without knowledge of the members would conclude.

    Args:
        candidates: the facts that the attacker tries.
        sent: the files.
        attacks: names of the attacks.
        count: number of candidates listed for each file and attack.

    Returns:
        A row for each of them, the highest score first.
    """
    rows = []
    for attack in attacks:
        for file in sent:
            scores = candidates.attacked(attack, file)
            if scores is None:
                continue
            for index in scores.argsort(descending=True, stable=True)[:count].tolist():
                fact = candidates.requests[index]
                row = {"attack": attack, "file": file.name, "score": float(scores[index])}
                rows.append({**row, "fact": f"{fact.text} {fact.target_new}"})
    return rows


def _at(scores: Tensor, indices: Sequence[int]) -> list[float]:
    return [float(scores[index]) for index in indices]


def report(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Rows of a table: one per finding."""
    rows = []
    for finding in findings:
        curve = finding.curve
        rows.append(
            {
                "attack": finding.attack,
                "question": finding.question,
                "on": finding.source,
                "members / others": f"{curve.members} / {curve.others}",
                "AUC": _shown(curve.auc),
                "TPR at 1 % FPR": _shown(curve.tpr[0.01]),
                "TPR at 0.1 % FPR": _shown(curve.tpr[0.001]),
                "recall at k": f"{curve.recall[curve.members]:.2f} at {curve.members}",
                "verdict": finding.verdict,
            }
        )
    return rows


def _shown(interval: Any) -> str:
    return f"{interval.value:.2f} ({interval.low:.2f}-{interval.high:.2f})"


def same_relations(candidates: Sequence[EditRequest], members: Sequence[set[int]]) -> list[int]:
    """Indices of the members, and of the candidates with the same relations."""
    everyone = set().union(*members)
    relations = {candidates[index].relation_id for index in everyone}
    return [
        index
        for index, candidate in enumerate(candidates)
        if index in everyone or candidate.relation_id in relations
    ]


def indices_of(candidates: Sequence[EditRequest], held: Sequence[EditRequest]) -> set[int]:
    """Indices of facts among the candidates.

    Raises:
        RoundError: when one of them is not a candidate.
    """
    known = {_identity(request): index for index, request in enumerate(candidates)}
    missing = [request.case_id for request in held if _identity(request) not in known]
    if missing:
        raise RoundError(f"members must be among the candidates; case {missing[0]} is not")
    return {known[_identity(request)] for request in held}


def _identity(request: EditRequest) -> tuple[str, str, str]:
    return request.prompt, request.subject, request.target_new

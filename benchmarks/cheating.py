"""What a cheating party gets away with: warnings, bounds and the gate, plain and on sums only.

``python -m benchmarks.cheating`` plays each cheat in a round of three parties with four of the
built-in facts each, and prints what docs/explanation/privacy.md reports. The cheating party votes
for its own work. On sums, the delta is compared with the plain one: if they are equal, the gate
judges them equally. ``--only`` plays only some of the cheats.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from collabedit.algebra import Factors
from collabedit.collaboration import distance
from collabedit.covariance import default_covariance
from collabedit.datasets import load_dataset, partition
from collabedit.editors import Hyperparameters, default_hyperparameters
from collabedit.errors import CollabEditError
from collabedit.merging import resolve_method
from collabedit.messages import (
    Bounds,
    Contribution,
    Covariance,
    Delta,
    Evaluation,
    Gate,
    Request,
    RequestKind,
    RoundConfig,
    RoundState,
    Schedule,
)
from collabedit.models import LanguageModel, load_model
from collabedit.parties import Party, new_round, trial
from collabedit.parties.in_process import parties_of, secure_aggregation_of
from collabedit.requests import Record
from collabedit.rounds import (
    Coordinator,
    Dropout,
    Failure,
    Verdict,
    dynamic_priors,
    run_gate,
    run_round,
    static_priors,
)
from collabedit.rounds.guards import outliers
from collabedit.transports import InProcess

EDITS, PARTIES = 4, 3
Shares = Sequence[Sequence[Record]]
Spoil = Callable[[Contribution], Contribution]


class Cheating(Party):
    """A party that may change what it sends, and then accepts whatever results."""

    spoil: Spoil | None = None
    sent: Contribution | None = None

    def contribute(self, *arguments: object, **options: object) -> Contribution:
        honest = super().contribute(*arguments, **options)  # type: ignore[arg-type]
        self.sent = honest if self.spoil is None else self.spoil(honest)
        return self.sent

    def evaluate(self, delta: Delta) -> Evaluation:
        vote = super().evaluate(delta)
        return vote if self.spoil is None else vote.model_copy(update={"objections": ()})


class Wire(InProcess):
    """Remembers what passes, and may replay a party's reply from an earlier round."""

    def __init__(self, parties: Sequence[Party], replayed: Mapping[RequestKind, bytes]) -> None:
        super().__init__(parties)
        self._replayed = replayed
        self.last: dict[RequestKind, bytes] = {}

    def exchange(self, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        kind = Request.from_bytes(request).kind
        replies = dict(super().exchange(request, to))
        cheat = list(self.parties)[-1]
        if isinstance(reply := replies.get(cheat), bytes):
            self.last[kind] = reply
            replies[cheat] = self._replayed.get(kind, reply)
        return replies


@dataclass
class Outcome:
    """The outcome of a round: the warnings, who was left out, and how the votes went."""

    warned: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    stopped: str = ""
    verdict: Verdict | None = None
    wire: Wire | None = None
    coordinator: Coordinator | None = None
    cheat: Cheating | None = None
    from_plain: float | None = None

    def __str__(self) -> str:
        parts = [f"warned of: {'; '.join(self.warned)}"] if self.warned else []
        parts += [f"{party} left out: {reason}" for party, reason in self.left_out.items()]
        parts += [f"stopped: {self.stopped}"] if self.stopped else []
        if self.from_plain is not None:
            parts.append(f"delta {self.from_plain:.1e} from the plain one")
        if self.verdict is not None:
            kept = "accepted" if self.verdict.accepted else "rolled back"
            parts.append(f"{kept} {self.verdict.reason}".strip())
            for party, vote in self.verdict.votes.items():
                hits = {k: f"{h.before}>{h.after}/{h.of}" for k, h in vote.hits.items()}
                parts.append(f"{party}: x{vote.perplexity:.3g} {hits or ''}".strip())
        return " | ".join(parts)


@dataclass(frozen=True)
class Stage:
    """The model and the settings of all rounds, and the state after earlier rounds."""

    model: LanguageModel
    settings: Hyperparameters
    covariance: Covariance
    state: RoundState = field(default_factory=RoundState)

    def config(self, shares: Shares, *, secure: bool, bounds: Bounds | None) -> RoundConfig:
        section = secure_aggregation_of([len(share) for share in shares])
        return new_round(
            self.model,
            schedule=Schedule.ONE_SHOT,
            hyperparameters=self.settings,
            contexts=(("{}",),),
            state=self.state if self.state.finished else None,
            secure_aggregation=section if secure else None,
            bounds=bounds,
            gate=Gate(),
        )

    def play(
        self,
        shares: Shares,
        spoil: Spoil | None,
        *,
        secure: bool = False,
        bounds: Bounds | None = None,
        gate: bool = True,
        replayed: Mapping[RequestKind, bytes] | None = None,
    ) -> Outcome:
        with self.model.starting_from(self.state.changes):
            config = self.config(shares, secure=secure, bounds=bounds)
            names = [f"party {number}" for number in range(len(shares))]
            parties = Cheating.together(
                self.model, shares, config, names, secure=parties_of(config)
            )
            cheat = parties[-1]
            assert isinstance(cheat, Cheating)
            cheat.spoil = spoil
            priors = dynamic_priors(
                static_priors(config, self.covariance), self.state.keys, config.rules.beta
            )
            coordinator = Coordinator(config, priors, resolve_method("CollabEdit"))
            wire = Wire(parties, replayed or {})
            outcome = Outcome(wire=wire, coordinator=coordinator, cheat=cheat)
            try:
                run_round(
                    wire,
                    coordinator,
                    on_dropout=Dropout.CONTINUE if secure else Dropout.RESTART,
                    min_parties=2,
                    left_out=lambda party, why: outcome.left_out.update({party: why.reason}),
                )
            except CollabEditError as error:
                outcome.stopped = str(error)
                return outcome
            if not secure and cheat.name not in outcome.left_out:
                sent = {p.name: p.sent for p in parties if isinstance(p, Cheating) and p.sent}
                outcome.warned = list(outliers(sent).values())
            if gate:
                outcome.verdict = run_gate(wire, coordinator)
        return outcome


def scaled(keys: float, residuals: float) -> Spoil:
    def spoil(honest: Contribution) -> Contribution:
        statistics = {
            name: Factors(keys * part.keys, residuals * part.residuals)
            for name, part in honest.statistics.items()
        }
        return replace(honest, statistics=statistics)

    return spoil


def unchanged(honest: Contribution) -> Contribution:
    return honest


def contradicting(records: Sequence[Record]) -> list[Record]:
    """The same questions with the true objects, which undoes another party's edits."""
    return [
        Record(replace(r.request, target_new=r.request.target_true, target_true=None))
        for r in records
        if r.request.target_true is not None
    ]


def show(name: str, mode: str, outcome: Outcome) -> Outcome:
    print(f"{name}, {mode}: {outcome}", flush=True)
    return outcome


def remember_held_out() -> None:
    """Measure held-out text once per model, since all parties in this process measure the same."""
    write, measure = trial._own_text, trial.mean_loss
    texts: dict[int, list[Sequence[int]]] = {}
    losses: dict[str, float] = {}

    def own_text(model: LanguageModel, seed: int) -> list[Sequence[int]]:
        return texts.setdefault(seed, texts.get(seed) or write(model, seed))

    def mean_loss(model: LanguageModel, rows: Sequence[Sequence[int]]) -> float:
        now = model.state_fingerprint()
        if now not in losses:
            losses[now] = measure(model, rows)
        return losses[now]

    trial._own_text, trial.mean_loss = own_text, mean_loss


def play_all(name: str, stage: Stage, shares: Shares, spoil: Spoil | None) -> None:
    plain = show(name, "plain", stage.play(shares, spoil))
    show(name, "bounds", stage.play(shares, spoil, bounds=Bounds(norm=10), gate=False))
    secure = stage.play(shares, spoil, secure=True, gate=False)
    show(name, "secure", compared(secure, plain))


def compared(secure: Outcome, plain: Outcome) -> Outcome:
    if secure.coordinator is not None and plain.coordinator is not None and not secure.stopped:
        secure.from_plain = distance(secure.coordinator.delta, plain.coordinator.delta)
    return secure


def replay(stage: Stage, first: Shares, second: Shares) -> None:
    """A round after an honest one, in which a party sends what it sent before."""
    plain: Outcome | None = None
    for mode, secure in (("plain", False), ("secure", True)):
        before = stage.play(first, None, secure=secure, gate=False)
        assert before.wire is not None
        assert before.coordinator is not None
        assert before.cheat is not None
        assert before.cheat.sent is not None
        old = before.cheat.sent.statistics
        base = RoundState(base_sha256=dict(before.coordinator.config.model_sha256))
        state = base.after(before.coordinator.delta.changes, before.coordinator.keys)
        later = replace(stage, state=state)
        kinds = (RequestKind.CONTRIBUTE, RequestKind.MASK)
        stolen = {kind: before.wire.last[kind] for kind in kinds if kind in before.wire.last}

        def again(honest: Contribution, old: Mapping[str, Factors] = old) -> Contribution:
            return replace(honest, statistics=old)

        verbatim = later.play(second, unchanged, secure=secure, gate=False, replayed=stolen)
        show("replays a message", mode, verbatim)
        wrapped = later.play(second, again, secure=secure, gate=not secure)
        show("sends old statistics", mode, wrapped if plain is None else compared(wrapped, plain))
        if plain is None:
            plain = wrapped
            bounded = later.play(second, again, bounds=Bounds(norm=10), gate=False)
            show("sends old statistics", "bounds", bounded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--target-steps", type=int, default=20)
    parser.add_argument("--only", default="", help="comma-separated: honest, both, keys, ...")
    options = parser.parse_args()
    logging.getLogger("collabedit").setLevel(logging.ERROR)
    remember_held_out()
    model = load_model(options.model)
    settings = default_hyperparameters(model.name, model.structure, "MEMIT").hyperparameters
    settings = settings.with_changes(target_steps=options.target_steps)
    stage = Stage(model, settings, default_covariance(model, settings.layers))
    dealt = partition(load_dataset("worldfacts"), 2 * PARTIES + 1, EDITS, seed=0)
    first, second, other = dealt[:PARTIES], dealt[PARTIES : 2 * PARTIES], dealt[-1]
    cheats: dict[str, tuple[Shares, Spoil | None]] = {
        "honest": (first, None),
        "both": (first, scaled(1000, 1000)),
        "keys": (first, scaled(1000, 1)),
        "residuals": (first, scaled(1, 1000)),
        "unrelated": ([*first[:-1], other], unchanged),
        "contradicting": ([*first[:-1], contradicting(first[0])], unchanged),
    }
    only = [name for name in options.only.split(",") if name] or [*cheats, "replay"]
    for name in only:
        if name in cheats:
            play_all(name, stage, *cheats[name])
    if "replay" in only:
        replay(stage, first, second)


if __name__ == "__main__":
    main()

"""What attacks find out: plain uploads, sums under secure aggregation, the delta, the edited model.

``python -m benchmarks.privacy`` edits the built-in model with 50 of the built-in facts; the
non-members are other facts with the same relations. It prints the rows of docs/results.md, step by
step. Targets are found once and kept in the user's cache, so a second run continues where the first
one stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from benchmarks.machine import print_machine
from collabedit.algebra import Prior
from collabedit.collaboration import distance
from collabedit.covariance import default_covariance
from collabedit.datasets import load_dataset
from collabedit.editing import find_targets
from collabedit.editing.targets import TargetCache
from collabedit.editors import default_hyperparameters
from collabedit.experiments.audit import Audit, Candidates, Finding, Sent, report, same_relations
from collabedit.merging import resolve_method
from collabedit.messages import (
    Contribution,
    Delta,
    MaskedSum,
    Request,
    RequestKind,
    RoundConfig,
    Schedule,
)
from collabedit.models import LanguageModel, load_model
from collabedit.parties import Party, new_round
from collabedit.parties.in_process import parties_of, secure_aggregation_of
from collabedit.reporting.audit_plot import save_roc
from collabedit.requests import EditRequest
from collabedit.rounds import Coordinator, Failure, run_round, static_priors
from collabedit.transports import InProcess

EDITS = 50
UPLOADS = (1, 8, EDITS)
PARTIES = (2, 5, 10)


class Listening(InProcess):
    """What a coordinator sees of each party under secure aggregation."""

    seen: dict[str, MaskedSum]

    def exchange(self, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        replies = super().exchange(request, to)
        if Request.from_bytes(request).kind is RequestKind.MASK:
            self.seen = {
                name: MaskedSum.from_bytes(reply)
                for name, reply in replies.items()
                if not isinstance(reply, Failure)
            }
        return replies


@dataclass(frozen=True, eq=False)
class Scene:
    """The facts, which of them are edited, and the round that edits them.

    Attributes:
        model: the unedited model.
        facts: the candidates.
        members: indices of the edited facts.
        plain: the round without secure aggregation.
        priors: the priors of its weights.
    """

    model: LanguageModel
    facts: Sequence[EditRequest]
    members: Sequence[int]
    plain: RoundConfig
    priors: Mapping[str, Prior]

    @cached_property
    def targets(self) -> Tensor:
        """``[d_out, 50]``, of the members."""
        requests = [self.facts[index] for index in self.members]
        contexts, settings = self.plain.contexts, self.plain.hyperparameters
        return find_targets(self.model, requests, contexts, settings, cache=TargetCache())

    @cached_property
    def bare(self) -> Candidates:
        """What an attacker without the covariance knows."""
        return Candidates(self.model, self.facts, self.plain, {})

    def share(self, party: int, parties: int) -> list[int]:
        """The indices of the members that a party holds."""
        return list(self.members[party::parties])

    def party(self, indices: Sequence[int], config: RoundConfig, **options: object) -> Party:
        columns = [self.members.index(index) for index in indices]
        requests, targets = [self.facts[index] for index in indices], self.targets[:, columns]
        return Party(self.model, requests, config, targets=targets, **options)  # type: ignore[arg-type]

    def upload(self, indices: Sequence[int]) -> Contribution:
        return self.party(indices, self.plain).contribute(Delta.empty(self.plain))

    def secure(self, parties: int) -> tuple[Delta, list[Sent], Sent]:
        """A round under secure aggregation: its delta, each masked sum, and the sum."""
        held = [self.share(number, parties) for number in range(parties)]
        section = secure_aggregation_of([len(own) for own in held])
        config = new_round(
            self.model,
            schedule=Schedule.ONE_SHOT,
            hyperparameters=self.plain.hyperparameters,
            contexts=self.plain.contexts,
            secure_aggregation=section.model_copy(update={"form": "sketched"}),
        )
        coordinator = Coordinator(config, self.priors, resolve_method("CollabEdit"))
        halves = parties_of(config)
        assert halves is not None
        transport = Listening(
            [self.party(part, config, secure=half) for part, half in zip(held, halves, strict=True)]
        )
        delta = run_round(transport, coordinator)
        masked = [Sent.of_masked(name, sum_, config) for name, sum_ in transport.seen.items()]
        return delta, masked, Sent(f"of {parties} parties", "sum", coordinator.keys, {})

    def pooled(self) -> Delta:
        coordinator = Coordinator(self.plain, self.priors, resolve_method("CollabEdit"))
        return coordinator.merge({"all": self.upload(self.members)})


def opened(name: str, facts: int, target_steps: int | None, bare: bool) -> Scene:
    model = load_model(name)
    requests = [record.request for record in load_dataset("worldfacts")][:facts]
    settings = default_hyperparameters(model.name, model.structure, "MEMIT").hyperparameters
    if target_steps is not None:
        settings = settings.with_changes(target_steps=target_steps)
    plain = new_round(
        model,
        schedule=Schedule.ONE_SHOT,
        hyperparameters=settings,
        contexts=[["{}"]] if bare else None,
    )
    chosen = list(range(0, facts, facts // EDITS))[:EDITS]
    kept = same_relations(requests, [set(chosen)])  # others would make it easier
    members = [kept.index(index) for index in chosen]
    priors = static_priors(plain, default_covariance(model, plain.layers))
    return Scene(model, [requests[index] for index in kept], members, plain, priors)


Step = Iterator[tuple[str, list[Finding]]]


def uploads(scene: Scene) -> Step:
    for count in UPLOADS:
        held = scene.members[:count]
        sent = Sent.of_contribution(f"of {count} edits", scene.upload(held))
        found = Audit(scene.bare, [set(held)]).run([sent], ["span", "subject"])
        yield f"plain upload of {count} edits, no covariance", found


def sums(scene: Scene) -> Step:
    everyone = [set(scene.members)]
    for parties in PARTIES:
        held = [set(scene.share(number, parties)) for number in range(parties)]
        plain = [
            Sent.of_contribution(f"party {number}", scene.upload(sorted(members)))
            for number, members in enumerate(held)
        ]
        found = Audit(scene.bare, held).run(plain, ["span"])[-1:]
        yield f"attribution among {parties} plain uploads", found
        _, masked, summed = scene.secure(parties)
        found = Audit(scene.bare, held).run(masked, ["span"])[-1:]
        found += Audit(scene.bare, everyone).run([summed], ["span", "subject"])
        yield f"secure aggregation of {parties} parties: attribution, then the sum", found


def delta(scene: Scene) -> Step:
    everyone = [set(scene.members)]
    merged, _, _ = scene.secure(PARTIES[-1])
    far = distance(merged, scene.pooled())
    print(
        f"\ndelta of {PARTIES[-1]} parties under secure aggregation, from the pooled one: {far:.1e}"
    )
    sent = Sent.of_delta("without the covariance", merged)
    found = Audit(scene.bare, everyone).run([sent], ["span", "subject", "behaviour"])
    yield "the delta, no covariance; and the edited model", found
    whitened = Candidates(scene.model, scene.facts, scene.plain, scene.priors)
    sent = Sent.of_delta("with the covariance", merged)
    yield (
        "the delta, with the covariance",
        Audit(whitened, everyone).run([sent], ["span", "subject"]),
    )


def residuals(scene: Scene) -> Step:
    """Try fewer candidates, since the attacker must find the targets of all, which is slow."""
    held = scene.members[: UPLOADS[1]]
    others = [index for index in range(len(scene.facts)) if index not in scene.members]
    tried = [*held, *others[::6]]
    few = Candidates(scene.model, [scene.facts[index] for index in tried], scene.plain, {})
    sent = Sent.of_contribution(f"of {len(held)} edits", scene.upload(held))
    yield "residual match", Audit(few, [set(range(len(held)))]).run([sent], ["residual"])


STEPS: dict[str, Callable[[Scene], Step]] = {
    "uploads": uploads,
    "sums": sums,
    "delta": delta,
    "residuals": residuals,
}


def show(title: str, findings: list[Finding]) -> None:
    print(f"\n## {title}", flush=True)
    for row in report(findings):
        print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)


def save(folder: Path, findings: list[Finding]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps([finding.as_json() for finding in findings], indent=2)
    (folder / "findings.json").write_text(text, encoding="utf-8")
    save_roc(findings, folder / "roc.png")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, help="Folder for findings.json and roc.png.")
    parser.add_argument("--steps", default=",".join(STEPS), help="Comma-separated; all by default.")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--target-steps", type=int, help="Fewer than the preset's are quicker.")
    parser.add_argument(
        "--facts", type=int, default=240, help="Number of candidates, including members."
    )
    parser.add_argument("--bare", action="store_true", help="Only the bare prompt as context.")
    out = parser.parse_args()
    print_machine()
    scene = opened(out.model, out.facts, out.target_steps, out.bare)
    everyone: list[Finding] = []
    for step in out.steps.split(","):
        for title, found in STEPS[step](scene):
            show(title, found)
            everyone += found
            if out.out is not None:
                save(out.out, everyone)


if __name__ == "__main__":
    main()

"""What attacks find out: plain uploads, sums under secure aggregation, the delta, the edited model.

``python -m benchmarks.privacy`` edits the built-in model with 50 of the built-in facts; the
non-members are those of the same relations. It prints the rows of docs/explanation/privacy.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from collabedit.algebra import relative_distance
from collabedit.covariance import default_covariance
from collabedit.datasets import load_dataset
from collabedit.editing.targets import TargetCache
from collabedit.editors import default_hyperparameters
from collabedit.experiments.audit import Audit, Candidates, Finding, Sent, report
from collabedit.merging import resolve_method
from collabedit.messages import (
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


def show(title: str, findings: list[Finding]) -> None:
    print(f"\n## {title}", flush=True)
    for row in report(findings):
        print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)


def secure_round(
    model: LanguageModel, shares: list[list[EditRequest]], plain: RoundConfig
) -> tuple[RoundConfig, Listening, Coordinator]:
    section = secure_aggregation_of([len(own) for own in shares], model)
    config = new_round(
        model,
        schedule=Schedule.ONE_SHOT,
        hyperparameters=plain.hyperparameters,
        contexts=plain.contexts,
        secure_aggregation=section.model_copy(update={"form": "sketched"}),
    )
    covariance = default_covariance(model, config.layers)
    coordinator = Coordinator(
        config, static_priors(config, covariance), resolve_method("CollabEdit")
    )
    parties = Party.together(model, shares, config, secure=parties_of(config))
    return config, Listening(parties), coordinator


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, help="Folder for findings.json and roc.png.")
    parser.add_argument("--target-steps", type=int, help="Fewer than the preset's is quicker.")
    parser.add_argument("--facts", type=int, default=240, help="Candidates, members among them.")
    parser.add_argument("--bare", action="store_true", help="No contexts but the bare prompt.")
    parser.add_argument("--residual", action="store_true", help="Also find non-members' targets.")
    out = parser.parse_args()
    model = load_model("smollm2-135m")
    facts = [record.request for record in load_dataset("worldfacts")][: out.facts]
    # Every relation has 16 facts in a row, so each has members and non-members.
    members = list(range(0, len(facts), len(facts) // EDITS))[:EDITS]
    edits = [facts[place] for place in members]
    settings = default_hyperparameters(model.name, model.structure, "MEMIT").hyperparameters
    if out.target_steps is not None:
        settings = settings.with_changes(target_steps=out.target_steps)
    plain = new_round(
        model,
        schedule=Schedule.ONE_SHOT,
        hyperparameters=settings,
        contexts=[["{}"]] if out.bare else None,
    )
    priors = static_priors(plain, default_covariance(model, plain.layers))
    bare = Candidates(model, facts, plain, {})
    whitened = Candidates(model, facts, plain, priors)
    everyone: list[Finding] = []

    for count in (1, 8, EDITS):
        sent = Party(model, edits[:count], plain, cache=TargetCache()).contribute(
            Delta.empty(plain)
        )
        upload = [Sent.of_contribution(f"of {count} edits", sent)]
        found = Audit(bare, [set(members[:count])]).run(upload, ["span", "subject"])
        show(f"plain upload of {count} edits, no covariance", found)
        everyone += found
    if out.residual:
        some = sorted({*members[:8], *range(3, len(facts), 6)})
        small = Candidates(model, [facts[i] for i in some], plain, {})
        sent = Party(model, edits[:8], plain, cache=TargetCache()).contribute(Delta.empty(plain))
        upload = [Sent.of_contribution("of 8 edits", sent)]
        places = {some.index(i) for i in members[:8]}
        show("residual match", Audit(small, [places]).run(upload, ["residual"]))

    for parties in PARTIES:
        owned = [members[number::parties] for number in range(parties)]
        shares = [[facts[place] for place in own] for own in owned]
        held = [set(own) for own in owned]
        uploads = [
            Sent.of_contribution(f"party {number}", party.contribute(Delta.empty(plain)))
            for number, party in enumerate(Party.together(model, shares, plain))
        ]
        found = Audit(bare, held).run(uploads, ["span"])[-1:]
        show(f"attribution among {parties} plain uploads", found)
        everyone += found
        config, transport, coordinator = secure_round(model, shares, plain)
        delta = run_round(transport, coordinator)
        masked = [Sent.of_masked(n, each, config) for n, each in transport.seen.items()]
        found = Audit(bare, held).run(masked, ["span"])[-1:]
        summed = Sent(f"of {parties} parties", "sum", coordinator.keys, {})
        found += Audit(bare, [set(members)]).run([summed], ["span"])
        show(f"secure aggregation of {parties} parties: attribution, then the sum", found)
        everyone += found

    result = Sent.of_delta("the delta", delta)
    found = Audit(bare, [set(members)]).run([result], ["span", "subject", "behaviour"])
    show("the delta, no covariance; and the edited model", found)
    everyone += found
    found = Audit(whitened, [set(members)]).run([result], ["span", "subject"])
    show("the delta, with the covariance", found)
    everyone += found
    print(f"\nrecall of subjects at k: {found[-1].curve.recall}")

    pooled = Party(model, edits, plain, cache=TargetCache())
    reference = Coordinator(plain, priors, resolve_method("CollabEdit")).merge(
        {"all": pooled.contribute(Delta.empty(plain))}
    )
    far = max(
        relative_distance(delta.changes[name], change) for name, change in reference.changes.items()
    )
    print(f"delta of {PARTIES[-1]} parties under secure aggregation from the pooled one: {far:.1e}")
    if out.out is not None:
        out.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps([each.as_json() for each in everyone], indent=2)
        (out.out / "findings.json").write_text(text, encoding="utf-8")
        save_roc(everyone, out.out / "roc.png")


if __name__ == "__main__":
    main()

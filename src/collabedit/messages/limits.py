"""Limits of a round: bounds on each party's contribution, and the gate before a delta is kept.

Both are sections of ``round.json``, so that every party knows them before it takes part.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from collabedit.errors import ContributionError
from collabedit.messages.evaluation import Evaluation, Hits, Kind, Objection

__all__ = ["Bounds", "Gate"]


class Bounds(BaseModel):
    """Upper bounds on a contribution; the coordinator refuses others, naming the party.

    They require seeing contributions, which secure aggregation hides.

    Attributes:
        edits: number of a party's edits.
        rank: number of directions of its statistics, in each layer.
        norm: factor by which its keys and residuals may be larger or smaller than the median
            party's; root mean squares over its edits, in each layer. Needs at least three
            parties.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edits: int | None = Field(default=None, ge=1)
    rank: int | None = Field(default=None, ge=1)
    norm: float | None = Field(default=None, gt=1)

    def check_edits(self, party: str, edits: int) -> None:
        """Check a party's number of edits.

        Raises:
            ContributionError: when there are too many; it names the party.
        """
        if self.edits is not None and edits > self.edits:
            raise ContributionError(
                f"it has {edits} edits, and the round allows at most {self.edits} per party",
                party=party,
            )

    def check_rank(self, party: str, rank: int) -> None:
        """Check the rank of a party's statistics in a layer.

        Raises:
            ContributionError: when it is too high; it names the party.
        """
        if self.rank is not None and rank > self.rank:
            raise ContributionError(
                f"its statistics have {rank} directions, and the round allows at most {self.rank} "
                "per party",
                party=party,
            )


class Gate(BaseModel):
    """When a merged delta is kept: limits for each party's trial, and how votes count.

    Each party judges its own trial. Counts over all parties would hide that one of them
    got none of its edits.

    Attributes:
        least_efficacy: share of a party's edited prompts that must give the new object.
        most_loss: share of its neighbouring prompts that may be lost. A party has few of them, so
            an honest round can cost a third.
        most_perplexity: allowed ratio of held-out perplexity to the unedited model's.
        least_share: share of the votes that must accept. One, the default, requires all voters:
            damage to one party's facts shows only in that party's trial, so the others must not be
            able to outvote it. The price is that any party can have a round rolled back, though
            not anonymously. With zero, the gate reports and keeps every delta.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    least_efficacy: float = Field(default=0.5, ge=0, le=1)
    most_loss: float = Field(default=0.5, ge=0, le=1)
    most_perplexity: float = Field(default=1.5, gt=0)
    least_share: float = Field(default=1.0, ge=0, le=1)

    def objections(self, hits: Mapping[Kind, Hits], perplexity: float) -> tuple[Objection, ...]:
        """The limits that a trial fails.

        Args:
            hits: by kind of prompt; kinds without prompts fail no limit.
            perplexity: ratio to that of the unedited model.
        """
        edited, near = hits.get("rewrite", Hits()), hits.get("neighborhood", Hits())
        failed: list[Objection] = []
        if edited.after < self.least_efficacy * edited.of:
            failed.append("efficacy")
        if near.before - near.after > self.most_loss * near.of:
            failed.append("neighborhood")
        if not perplexity <= self.most_perplexity:
            failed.append("perplexity")
        return tuple(failed)

    def words(self, vote: Evaluation) -> str:
        """A party's vote in words, with the limits that its trial fails.

        Under secure aggregation the counts are unknown.
        """
        edited, near = vote.hits.get("rewrite"), vote.hits.get("neighborhood")
        kept = "too few" if edited is None else f"{edited.after} of {edited.of}"
        lost = "too many" if near is None else f"{near.before - near.after} of {near.of}"
        reasons: dict[Objection, str] = {
            "efficacy": (
                f"{kept} edited prompts give the new object, {self.least_efficacy:.0%} must"
            ),
            "neighborhood": (f"{lost} neighbouring prompts are lost, {self.most_loss:.0%} may be"),
            "perplexity": (
                f"held-out perplexity is {vote.perplexity:.3g} times as high as before, "
                f"{self.most_perplexity:g} times is allowed"
            ),
        }
        if vote.accepts:
            return "accepts"
        return "rejects: " + "; ".join(reasons[objection] for objection in vote.objections)

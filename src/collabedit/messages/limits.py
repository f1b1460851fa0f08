"""What a round allows: bounds on each party's contribution, and the gate before a delta is kept.

Both are sections of ``round.json``, so that every party knows them before it takes part.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from collabedit.errors import ContributionError
from collabedit.messages.evaluation import Evaluation, Hits, Kind, Objection

__all__ = ["Bounds", "Gate"]


class Bounds(BaseModel):
    """What a contribution may be at most; the coordinator refuses others, by name.

    It has to see contributions for that, which secure aggregation hides.

    Attributes:
        edits: number of a party's edits.
        rank: number of directions of its statistics, in each layer.
        norm: how many times as large, or as small, as the median party's its keys and its
            residuals may be; root mean squares over its edits, in each layer. It takes three
            parties to tell who is out of line.
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
                f"it has {edits} edits, and the round takes at most {self.edits} of a party",
                party=party,
            )

    def check_rank(self, party: str, rank: int) -> None:
        """Check the rank of a party's statistics in a layer.

        Raises:
            ContributionError: when it is too high; it names the party.
        """
        if self.rank is not None and rank > self.rank:
            raise ContributionError(
                f"its statistics have {rank} directions, and the round takes at most {self.rank} "
                "of a party",
                party=party,
            )


class Gate(BaseModel):
    """When a merged delta is kept: what each party's trial of it must show, and how votes count.

    Each party judges its own trial. Counts of all parties together would hide that one of them
    got nothing of what it asked for.

    Attributes:
        least_efficacy: share of a party's edited prompts that must give the new object.
        most_loss: share of its neighbouring prompts that may be lost. A party has few of them, so
            that an honest round can cost one a third.
        most_perplexity: ratio to the unedited model's perplexity that held-out text may have.
        least_share: share of the votes that must accept. One, the default, asks all that voted:
            what spoils one party's facts shows in that party's trial alone, so that any rule by
            which others outvote it lets that pass. The price is that any party can have a round
            rolled back; it is named. With zero, the gate reports and keeps every delta.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    least_efficacy: float = Field(default=0.5, ge=0, le=1)
    most_loss: float = Field(default=0.5, ge=0, le=1)
    most_perplexity: float = Field(default=1.5, gt=0)
    least_share: float = Field(default=1.0, ge=0, le=1)

    def objections(self, hits: Mapping[Kind, Hits], perplexity: float) -> tuple[Objection, ...]:
        """The limits that a trial fails.

        Args:
            hits: by kind of prompt; kinds of which there are no prompts fail nothing.
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
        """How a party votes, and which limits its trial fails.

        Under secure aggregation the counts behind it are not known.
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
                f"held-out text is {vote.perplexity:.3g} times as perplexing as before, "
                f"{self.most_perplexity:g} times is allowed"
            ),
        }
        if vote.accepts:
            return "accepts"
        return "rejects: " + "; ".join(reasons[each] for each in vote.objections)

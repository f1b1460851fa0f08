"""Checks by a coordinator that sees contributions, with the parties' names."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from torch import Tensor

from collabedit.messages import Contribution

__all__ = ["LEAST_PARTIES", "outliers"]

#: Factor from the parties' median beyond which a party is out of line. Root mean squares of keys
#: and residuals per edit differ by a factor below 3 between honest parties of a model.
_FACTOR = 10.0
#: With fewer parties there is no majority to compare with.
LEAST_PARTIES = 3


def outliers(contributions: Mapping[str, Contribution], factor: float = _FACTOR) -> dict[str, str]:
    """Parties whose statistics are far larger or smaller, per edit, than the median party's.

    Fewer than half of the parties cannot move the median. Wrong facts of the usual size go
    unnoticed, as does everything under secure aggregation.

    Args:
        contributions: of one exchange, by party.
        factor: from the median, beyond which a party is out of line.

    Returns:
        One line per party that is out of line, by party; the furthest first.
    """
    outlying: dict[str, tuple[float, str]] = {}
    if len(contributions) < LEAST_PARTIES:
        return {}
    names = next(iter(contributions.values())).statistics
    for name in names:
        for what in ("keys", "residuals"):
            sizes = {party: _size(sent, name, what) for party, sent in contributions.items()}
            median = statistics.median(sizes.values())
            for party, size in sizes.items():
                ratio = size / median if median > 0 else math.inf
                if not 1 / factor < ratio < factor:
                    far = abs(math.log(ratio)) if ratio > 0 else math.inf
                    line = (
                        f"{name}: its {what} are {ratio:.3g} times as large as the median party's"
                    )
                    outlying[party] = max(outlying.get(party, (0.0, "")), (far, line))
    worst = sorted(outlying.items(), key=lambda item: item[1][0], reverse=True)
    return {party: line for party, (_, line) in worst}


def _size(sent: Contribution, name: str, what: str) -> float:
    """Root mean square of the norms of a party's keys or residuals."""
    factor: Tensor = getattr(sent.statistics[name], what)
    return float(factor.norm()) / math.sqrt(sent.metadata.edits)

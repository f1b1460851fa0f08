"""Partitioning records among parties."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Literal

from collabedit.errors import DatasetError, UnknownNameError
from collabedit.requests import Record

__all__ = ["PARTITIONS", "PartitionKind", "partition"]

PartitionKind = Literal["iid", "relation"]


def partition(
    records: Sequence[Record],
    parties: int,
    per_party: int | Sequence[int],
    *,
    by: PartitionKind = "iid",
    seed: int = 0,
) -> list[list[Record]]:
    """Partition records among parties; no record is dealt twice.

    Args:
        records: all available records; some may be left over.
        parties: number of parties.
        per_party: records of each party: one number for all, or one each.
        by: ``iid`` deals at random; ``relation`` gives every party as few relations as possible,
            as when each organisation knows one domain.
        seed: for the shuffle; the same seed gives the same partition.

    Returns:
        One list per party, of the requested sizes.

    Raises:
        DatasetError: when the sizes are invalid or there are too few records.
        UnknownNameError: when ``by`` is not a kind of partition.
    """
    if by not in PARTITIONS:
        raise UnknownNameError("partition", by, PARTITIONS)
    sizes = _sizes(parties, per_party)
    needed = sum(sizes)
    if needed > len(records):
        raise DatasetError(
            f"{parties} parties need {needed} records together, but the data set has "
            f"{len(records)}; lower the number of parties or of records per party, or give a "
            "larger data set"
        )
    shuffled = random.Random(seed).sample(list(records), len(records))
    return PARTITIONS[by](shuffled, sizes)


def _sizes(parties: int, per_party: int | Sequence[int]) -> list[int]:
    if parties < 1:
        raise DatasetError(f"cannot deal records to {parties} parties; there must be 1 or more")
    sizes = [per_party] * parties if isinstance(per_party, int) else list(per_party)
    if len(sizes) != parties:
        raise DatasetError(
            f"{len(sizes)} sizes were given for {parties} parties; give one for each"
        )
    if min(sizes) < 1:
        raise DatasetError(f"a party cannot have {min(sizes)} records; give it 1 or more")
    return sizes


def _deal_evenly(records: Sequence[Record], sizes: Sequence[int]) -> list[list[Record]]:
    rest = iter(records)
    return [list(islice(rest, size)) for size in sizes]


def _deal_by_relation(records: Sequence[Record], sizes: Sequence[int]) -> list[list[Record]]:
    """Large parties first, each from the smallest group that fills it, otherwise from the largest.

    Records whose relation is unknown are one group.
    """
    groups: dict[str | None, list[Record]] = {}
    for record in records:
        groups.setdefault(record.request.relation_id, []).append(record)
    shares: list[list[Record]] = [[] for _ in sizes]
    for party in sorted(range(len(sizes)), key=lambda party: -sizes[party]):
        while missing := sizes[party] - len(shares[party]):
            group = _best_group(list(groups.values()), missing)
            shares[party] += group[:missing]
            del group[:missing]
    return shares


def _best_group(groups: Sequence[list[Record]], size: int) -> list[Record]:
    enough = [group for group in groups if len(group) >= size]
    return min(enough, key=len) if enough else max(groups, key=len)


PARTITIONS: dict[str, Callable[[Sequence[Record], Sequence[int]], list[list[Record]]]] = {
    "iid": _deal_evenly,
    "relation": _deal_by_relation,
}
"""Kinds of partition and the functions that deal shuffled records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabedit.datasets import partition
from collabedit.errors import DatasetError, UnknownNameError
from collabedit.requests import EditRequest, Record


def make(*relations: str | None) -> list[Record]:
    return [
        Record(EditRequest(i, "{} is", f"subject {i}", "new", "true", relation))
        for i, relation in enumerate(relations)
    ]


def ids(shares: list[list[Record]]) -> list[list[int]]:
    return [[record.case_id for record in share] for share in shares]


@given(
    relations=st.lists(st.sampled_from(["P1", "P2", "P3", None]), min_size=6, max_size=30),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    by=st.sampled_from(["iid", "relation"]),
    seed=st.integers(0, 5),
)
def test_shares_have_their_sizes_and_no_record_repeats(relations, sizes, by, seed) -> None:
    records = make(*relations)
    shares = partition(records, len(sizes), sizes, by=by, seed=seed)
    assert [len(share) for share in shares] == sizes
    dealt = [record.case_id for share in shares for record in share]
    assert len(set(dealt)) == len(dealt)
    assert all(record in records for share in shares for record in share)
    assert ids(partition(records, len(sizes), sizes, by=by, seed=seed)) == ids(shares)


def test_the_seed_decides() -> None:
    records = make(*["P1"] * 40)
    first = partition(records, 4, 10, seed=0)
    assert ids(first) == ids(partition(records, 4, 10, seed=0))
    assert ids(first) != ids(partition(records, 4, 10, seed=1))
    assert ids(first)[0] != list(range(10))
    assert [record.case_id for record in records] == list(range(40))  # the input is left alone


def test_by_relation_parties_are_pure_if_possible() -> None:
    records = make(*["P1"] * 10, *["P2"] * 4, *["P3"] * 6)
    shares = partition(records, 3, [4, 10, 6], by="relation", seed=2)
    assert [{r.request.relation_id for r in share} for share in shares] == [{"P2"}, {"P1"}, {"P3"}]
    mixed = partition(records, 3, [4, 10, 6], by="iid", seed=2)
    assert all(len({r.request.relation_id for r in share}) > 1 for share in mixed)


def test_by_relation_a_party_takes_the_group_that_it_fits() -> None:
    records = make(*["P1"] * 6, *["P2"] * 4)
    shares = partition(records, 3, [3, 4, 3], by="relation")
    assert [{r.request.relation_id for r in share} for share in shares] == [{"P1"}, {"P2"}, {"P1"}]


def test_by_relation_a_party_too_large_for_one_takes_few() -> None:
    records = make(*["P1"] * 5, *["P2"] * 3, None, None)
    (share,) = partition(records, 1, 8, by="relation")
    assert {record.request.relation_id for record in share} == {"P1", "P2"}


def test_too_few_records_names_the_numbers() -> None:
    with pytest.raises(DatasetError, match=r"3 parties need 6 .* has 5; lower"):
        partition(make(*["P1"] * 5), 3, 2)
    assert len(partition(make(*["P1"] * 6), 3, 2)) == 3


@pytest.mark.parametrize(
    ("parties", "sizes", "message"),
    [
        (0, 1, "0 parties"),
        (2, [1, 1, 1], "3 sizes were given for 2 parties"),
        (2, [1, 0], "cannot have 0 records"),
        (2, -1, "cannot have -1 records"),
    ],
)
def test_invalid_sizes_are_refused(parties: int, sizes: int | list[int], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        partition(make(*["P1"] * 9), parties, sizes)


def test_an_unknown_kind() -> None:
    with pytest.raises(UnknownNameError, match="iid, relation"):
        partition(make("P1"), 1, 1, by="subject")

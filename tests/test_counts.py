"""Update counts: one array for all tensors, set in one go."""

import copy
import pickle

import numpy as np
import pytest

from stepspec.counts import Counts, consecutive
from stepspec.rates import Multipliers, Rate
from stepspec.tally import Tally

ONES = ((1.0, 1.0),)


def test_a_tensor_is_absent_until_its_first_update() -> None:
    counts = Counts()
    places = counts.places([7, 3])
    assert (dict(counts), len(counts), counts.highest, 7 in counts) == ({}, 0, -1, False)
    assert counts.read(places, 5).tolist() == [5, 5]
    counts.setting(places[:1], 6, 6)()
    assert (dict(counts), counts.highest) == ({7: 6}, 6)
    assert counts.read(places, 5).tolist() == [6, 5]
    counts.loading({7: None, 3: 2})()
    assert (dict(counts), counts.highest) == ({3: 2}, 2)


def test_counts_survive_growth_copies_and_pickles() -> None:
    counts = Counts()
    counts.update({0: 1 << 61, 1: 2})
    before = counts.address
    counts.update({index: index for index in range(2, 100)})
    assert counts.address != before
    expected = {0: 1 << 61, 1: 2} | {index: index for index in range(2, 100)}
    for other in (counts, counts.copy(), copy.deepcopy(counts), pickle.loads(pickle.dumps(counts))):
        assert other == expected
        assert other.highest == 1 << 61
    other = counts.copy()
    other.update({1: 3})
    assert (counts[1], other[1]) == (2, 3)


@pytest.mark.parametrize(
    ("places", "where"),
    [([3, 4, 5], slice(3, 6)), ([3], slice(3, 4)), ([3, 5], None), ([4, 3], None), ([], None)],
)
def test_consecutive_places_are_a_slice(places: list[int], where: slice | None) -> None:
    found = consecutive(np.array(places, np.int64))
    assert found == where if where is not None else isinstance(found, np.ndarray)


def test_a_tally_groups_by_multipliers_and_distances() -> None:
    counts = Counts()
    counts.update({0: 4, 2: 6})
    tally = Tally(counts, [0, 1, 2, 3])
    tally.read(begin=4)
    assert (tally.first, tally.highest, tally.ahead.tolist()) == (4, 6, [0, 0, 2, 0])
    multipliers = Multipliers(((1.0, 1.0), (0.5, 2.0)), (0, 1, 0, 0))
    rates = tally.rates(0.1, 0.2, multipliers)
    assert rates.distinct == (Rate(0.1, 0.2, 5), Rate(0.05, 0.4, 5), Rate(0.1, 0.2, 7))
    assert (rates.of.tolist(), [rates.first(k) for k in range(3)]) == ([0, 1, 2, 0], [0, 1, 2])
    tally.raising(range(1, 3))()
    assert (dict(counts), counts.highest) == ({0: 4, 1: 5, 2: 7}, 7)
    tally.read(begin=4)
    assert tally.rates(0.1, 0.2, multipliers).distinct[1].t == 6
    tally.raising(range(4))()
    assert counts == {0: 5, 1: 6, 2: 8, 3: 5}


def test_tensors_that_are_updated_together_stay_in_one_grouping() -> None:
    counts = Counts()
    tally = Tally(counts, range(3))
    groupings = []
    for t in range(1, 4):
        tally.read(begin=0)
        rates = tally.rates(0.1, 0.0, Multipliers(ONES, (0, 0, 0)))
        assert rates.distinct == (Rate(0.1, 0.0, t),)
        groupings.append(rates.of)
        tally.raising(range(3))()
    assert all(of is groupings[0] for of in groupings)
    assert counts == {0: 3, 1: 3, 2: 3}


def test_no_tensors_have_no_rates() -> None:
    tally = Tally(Counts(), [])
    tally.read(begin=2)
    assert tally.rates(0.1, 0.0, Multipliers(ONES, ())).distinct == ()
    assert tally.highest == -1

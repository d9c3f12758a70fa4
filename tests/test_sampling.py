"""Samples of cases: every optimizer gets its share, and the representatives are of different kinds."""

import pytest
from sampling import OPTIMIZERS, REPRESENTATIVES, kind, sampled

CASES = range(6)


def cases_of(mark: pytest.MarkDecorator) -> dict[type, list[int]]:
    found: dict[type, list[int]] = {}
    for given in mark.args[1]:
        optimizer, case = given.values
        found.setdefault(optimizer, []).append(case)
    return found


def test_every_kind_is_represented_once() -> None:
    represented = [kind(optimizer) for optimizer in REPRESENTATIVES]
    assert all(any(kind(optimizer) <= one for one in represented) for optimizer in OPTIMIZERS)
    assert not any(one < other for one in represented for other in represented)
    assert len(set(represented)) == len(represented)


@pytest.mark.parametrize(("each", "always", "most"), [(1, 0, None), (3, 0, None), (2, 1, None), (1, 0, 2)])
def test_samples(each: int, always: int, most: int | None) -> None:
    found = cases_of(sampled("case", CASES, each=each, always=always, most=most))
    assert list(found) == list(OPTIMIZERS)
    for optimizer, cases in found.items():
        turns = (len(CASES) - always if most is None else most) if optimizer in REPRESENTATIVES else each
        assert len(set(cases)) == len(cases) == always + turns
        assert set(range(always)) <= set(cases)
    assert {case for cases in found.values() for case in cases} == set(CASES)


def test_representatives_get_the_same_without_a_limit() -> None:
    found = cases_of(sampled("case", CASES))
    assert all(sorted(found[optimizer]) == list(CASES) for optimizer in REPRESENTATIVES)

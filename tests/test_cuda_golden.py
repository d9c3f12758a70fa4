"""Recorded MXNet trajectories on an emulated GPU: within the records' tolerances, and the host's bits."""

from typing import Any

import pytest
from emulated_driver import DeviceArray, EmulatedDriver
from golden_records import CASES, OPTIMIZERS, Array, Case, complaints, replay, same_bits

import stepspec
from stepspec.cuda.driver import use

LAZY = "sparse_dw_lazy"
# by the ends of their names; of the same kind of cases the last one, with momentum if there is one
KINDS = {
    "shapes": "tensors of one to four axes, float32, with all terms of the rule",
    "skip": "a schedule, and tensors that are not always given",
    "mult_both": "multipliers by index and by name",
    "mp16": "float16 with a float32 master copy",
    "sparse_dw": "row-sparse gradients",
    LAZY: "row-sparse gradients of which only the rows that are there count",
}


def kinds(optimizer: str) -> list[str]:
    """Return which of the kinds an optimizer is tested with: one in turn, and lazy updates if it has them."""
    common = [kind for kind in KINDS if kind != LAZY]
    own = [LAZY] if hasattr(getattr(stepspec, optimizer), "lazy_update") else []
    return [common[OPTIMIZERS.index(optimizer) % len(common)], *own]


def sample() -> list[Any]:
    """Return a case of each kind for each optimizer that is tested with it."""
    found = {
        (case.record["optimizer"], case.name.rpartition(".")[2]): case
        for case in sorted(CASES.values(), key=lambda case: bool(case.record["kwargs"].get("momentum")))
    }
    return [
        pytest.param(case, id=case.name, marks=pytest.mark.xdist_group(optimizer))
        for (optimizer, kind), case in found.items()
        if kind in kinds(optimizer)
    ]


@pytest.mark.parametrize("case", sample())
def test_trajectory(case: Case) -> None:
    driver = EmulatedDriver()

    def place(array: Array) -> DeviceArray:
        return DeviceArray(driver, array)

    feed = case.expect["feed"]
    with use(driver):
        got = replay(case, "fused", feed, place)
    assert driver.launches
    for entry in [case.expect, *case.expect.get("also", [])]:
        assert entry["feed"] == feed
        assert [*complaints(case, got, case.reference(entry["compare"]), entry["tol"])] == []
    host = replay(case, "fused", feed)
    assert host.keys() == got.keys()
    assert [key for key in host if not same_bits(host[key], got[key])] == []


def test_every_optimizer_has_its_cases_and_every_kind_one() -> None:
    found = [param.values[0] for param in sample()]
    cases = {(case.record["optimizer"], case.name.rpartition(".")[2]) for case in found}
    assert cases == {(name, kind) for name in OPTIMIZERS for kind in kinds(name)}
    assert {kind for _, kind in cases} == KINDS.keys()

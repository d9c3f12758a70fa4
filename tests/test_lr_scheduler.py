"""Learning rate schedules: MXNet's values, as pure functions, and checked arguments."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stepspec.lr_scheduler import (
    CosineScheduler,
    FactorScheduler,
    LRScheduler,
    MultiFactorScheduler,
    PolyScheduler,
)

# the rates of updates 0, 1, 2, ...
TABLES: list[tuple[LRScheduler, list[float]]] = [
    (FactorScheduler(3, factor=0.5, base_lr=0.8), [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.1]),
    (FactorScheduler(1, 0.5, 0.15, 0.8), [0.8, 0.8, 0.4, 0.2, 0.15, 0.15]),
    (FactorScheduler(2, base_lr=0.3), [0.3, 0.3, 0.3, 0.3, 0.3]),
    (FactorScheduler(2, 0, 0.01, 0.3), [0.3, 0.3, 0.3, 0.01, 0.01]),
    (FactorScheduler(1, 0.5, 0.25, 0.125), [0.125, 0.125, 0.25]),
    (FactorScheduler(2, 0.5, base_lr=0.8, warmup_steps=4), [0, 0.2, 0.4, 0.6, 0.4, 0.2, 0.2, 0.1]),
    (MultiFactorScheduler([2, 5], 0.1, 10), [10, 10, 10, 1, 1, 1, 0.1, 0.1]),
    (MultiFactorScheduler([1], 0.5, 0.8, 3, 0.2, "constant"), [0.2, 0.2, 0.2, 0.4, 0.4]),
    (PolyScheduler(4, base_lr=1.6), [1.6, 0.9, 0.4, 0.1, 0, 0, 0]),
    (PolyScheduler(4, 1.0, 1, 0.2), [1.0, 0.8, 0.6, 0.4, 0.2, 0.2]),
    (PolyScheduler(6, 1.6, 2, 0, 2, 0.4), [0.4, 1.0, 1.6, 0.9, 0.4, 0.1, 0, 0]),
    (PolyScheduler(2, 0.5, 0), [0.5, 0.5, 0.5, 0.5]),
    (CosineScheduler(4, base_lr=2), [2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0, 0]),
    (CosineScheduler(2, 0.5, 0.1), [0.5, 0.3, 0.1, 0.1]),
    (CosineScheduler(5, 0.5, 0.1, 3, 0.05, "constant"), [0.05, 0.05, 0.05, 0.5, 0.3, 0.1, 0.1]),
]


@pytest.mark.parametrize(("scheduler", "rates"), TABLES)
def test_rates(scheduler: LRScheduler, rates: list[float]) -> None:
    assert [scheduler(n) for n in range(len(rates))] == pytest.approx(rates, rel=1e-14, abs=1e-16)


@pytest.mark.parametrize(("scheduler", "rates"), TABLES)
def test_a_call_changes_nothing(scheduler: LRScheduler, rates: list[float]) -> None:
    before = dict(vars(scheduler))
    forwards = [scheduler(n) for n in range(len(rates))]
    backwards = [scheduler(n) for n in reversed(range(len(rates)))]
    assert forwards == backwards[::-1]
    assert all(type(rate) is float for rate in forwards)
    assert vars(scheduler) == before


def test_the_far_end() -> None:
    far = 10**12
    assert FactorScheduler(1, 0.5)(far) == 1e-8
    assert MultiFactorScheduler([3], 0.5, 0.8)(far) == 0.4
    assert PolyScheduler(7, final_lr=0.001)(far) == 0.001
    assert CosineScheduler(7, final_lr=0.001)(far) == 0.001


@pytest.mark.parametrize(
    ("make", "rates"),
    [
        (lambda lr: FactorScheduler(2, 0.5, base_lr=lr, warmup_steps=2), [0, 0.8, 1.6, 0.8]),
        (lambda lr: MultiFactorScheduler([2], 0.5, lr, 2, 0.4), [0.4, 1.0, 1.6, 0.8]),
        (lambda lr: PolyScheduler(6, lr, warmup_steps=2), [0, 0.8, 1.6, 0.9, 0.4, 0.1, 0]),
        (lambda lr: CosineScheduler(4, lr, 0.2, 2), [0, 0.8, 1.6, 0.9, 0.2, 0.2]),
    ],
)
def test_another_base_rate_is_complete(make: Callable[[float], LRScheduler], rates: list[float]) -> None:
    original = make(0.5)
    before = dict(vars(original))
    changed = original.with_base_lr(1.6)
    assert type(changed) is type(original)
    assert vars(changed) == vars(make(1.6))
    assert [changed(n) for n in range(len(rates))] == pytest.approx(rates, rel=1e-14, abs=1e-16)
    assert vars(original) == before


def test_another_base_rate_is_checked() -> None:
    scheduler = PolyScheduler(10, 0.5, warmup_steps=2, warmup_begin_lr=0.1)
    with pytest.raises(ValueError, match=r"warmup_begin_lr must not be above base_lr, but 0\.1 > 0\.05"):
        scheduler.with_base_lr(0.05)
    with pytest.raises(ValueError, match="base_lr must be finite"):
        scheduler.with_base_lr(math.nan)
    with pytest.raises(TypeError, match="base_lr must be a number"):
        scheduler.with_base_lr("0.1")  # type: ignore[arg-type]  # wrong on purpose


def test_numpy_numbers_are_numbers() -> None:
    step: Any = np.int64(2)
    factor: Any = np.float32(0.5)
    scheduler = MultiFactorScheduler([step], factor, np.float64(0.5))
    assert [scheduler(step + i) for i in range(2)] == [0.5, 0.25]
    assert type(scheduler.base_lr) is float


def test_own_schedules() -> None:
    class Halving(LRScheduler):
        def decayed_lr(self, num_update: int) -> float:
            return math.ldexp(self.base_lr, -num_update)

    assert [Halving(1.0, 2)(n) for n in range(4)] == [0, 0.5, 0.25, 0.125]
    assert Halving(1.0).with_base_lr(4.0)(1) == 2.0
    with pytest.raises(NotImplementedError, match=r"LRScheduler must define decayed_lr"):
        LRScheduler()(1)


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: LRScheduler(True), TypeError, "base_lr must be a number, not True"),
    (lambda: LRScheduler("0.1"), TypeError, "base_lr must be a number, not '0.1'"),  # type: ignore[arg-type]  # wrong on purpose
    (lambda: LRScheduler(None), TypeError, "base_lr must be a number"),  # type: ignore[arg-type]  # wrong on purpose
    (lambda: LRScheduler(-0.1), ValueError, "base_lr must be finite and not negative, not -0.1"),
    (lambda: LRScheduler(math.inf), ValueError, "base_lr must be finite"),
    (lambda: LRScheduler(10**400), ValueError, "base_lr must be finite"),
    (lambda: LRScheduler(warmup_steps=1.0), TypeError, "warmup_steps must be a whole"),  # type: ignore[arg-type]  # wrong on purpose
    (lambda: LRScheduler(warmup_steps=-1), ValueError, "warmup_steps must be at least 0, not -1"),
    (lambda: LRScheduler(warmup_begin_lr=0.02), ValueError, "warmup_begin_lr must not be above base_lr"),
    (lambda: LRScheduler(warmup_begin_lr=-1), ValueError, "warmup_begin_lr must be finite and not negative"),
    (lambda: LRScheduler(warmup_mode="cosine"), ValueError, "warmup_mode must be 'linear' or 'constant'"),
    (lambda: FactorScheduler(0), ValueError, "step must be at least 1, not 0"),
    (lambda: FactorScheduler(1.5), TypeError, "step must be a whole number, not 1.5"),  # type: ignore[arg-type]  # wrong on purpose
    (lambda: FactorScheduler(True), TypeError, "step must be a whole number, not True"),
    (lambda: FactorScheduler(1, 1.1), ValueError, "factor must be at most 1, not 1.1"),
    (lambda: FactorScheduler(1, -0.5), ValueError, "factor must be finite and not negative"),
    (lambda: FactorScheduler(1, math.nan), ValueError, "factor must be finite"),
    (lambda: FactorScheduler(1, 1, -1), ValueError, "stop_factor_lr must be finite and not negative"),
    (lambda: MultiFactorScheduler(5), TypeError, "step must be a list of update numbers"),  # type: ignore[arg-type]  # wrong on purpose
    (lambda: MultiFactorScheduler([]), ValueError, "step must hold one or more update numbers"),
    (lambda: MultiFactorScheduler([3, 3]), ValueError, "increasing, not [3, 3]"),
    (lambda: MultiFactorScheduler([2, "4"]), TypeError, "step[1] must be a whole"),  # type: ignore[list-item]  # wrong on purpose
    (lambda: MultiFactorScheduler([0, 4]), ValueError, "step[0] must be at least 1, not 0"),
    (lambda: MultiFactorScheduler([1], 2), ValueError, "factor must be at most 1"),
    (lambda: PolyScheduler(0), ValueError, "max_update must be at least 1, not 0"),
    (lambda: PolyScheduler(10.0), TypeError, "max_update must be a whole number"),  # type: ignore[arg-type]  # wrong on purpose
    (lambda: PolyScheduler(5, warmup_steps=5), ValueError, "max_update must be above warmup_steps"),
    (lambda: PolyScheduler(5, pwr=-1), ValueError, "pwr must be finite and not negative"),
    (lambda: CosineScheduler(5, final_lr=-1), ValueError, "final_lr must be finite and not negative"),
    (lambda: CosineScheduler(5)(-1), ValueError, "num_update must be at least 0, not -1"),
    (lambda: CosineScheduler(5)(2.0), TypeError, "num_update must be a whole"),  # type: ignore[arg-type]  # wrong on purpose
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_arguments(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)

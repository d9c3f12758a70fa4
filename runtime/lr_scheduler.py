"""Learning rate schedules: pure functions of the number of updates.

Arguments and values are those of the code of MXNet 2.0. Unlike there, a call changes nothing: a scheduler may
be shared, asked for any update in any order, and resumed from a checkpoint.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Self

from stepspec.schedule_arguments import count, decay_factor, rate

WARMUP_MODES = ("linear", "constant")


class LRScheduler:
    """Base of all schedules: warms up, then leaves the rate to `decayed_lr`.

    Before update `warmup_steps` the rate is `warmup_begin_lr` (mode "constant"), or rises from it to
    `base_lr` in a straight line (mode "linear").

    Parameters
    ----------
    base_lr : float
        Rate after the warm-up, before any decay; finite, >= 0 and at least `warmup_begin_lr`.
    warmup_steps : int
        Number of updates the warm-up takes; 0 for none.
    warmup_begin_lr : float
        Rate of the warm-up's begin; finite, >= 0.
    warmup_mode : {"linear", "constant"}
        Shape of the warm-up.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self,
        base_lr: float = 0.01,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0,
        warmup_mode: str = "linear",
    ) -> None:
        self.base_lr = rate("base_lr", base_lr)
        self.warmup_steps = count("warmup_steps", warmup_steps, 0)
        self.warmup_begin_lr = rate("warmup_begin_lr", warmup_begin_lr)
        self.warmup_mode = warmup_mode
        if warmup_mode not in WARMUP_MODES:
            raise ValueError(f"warmup_mode must be 'linear' or 'constant', not {warmup_mode!r}")
        self._check_warmup()

    def __call__(self, num_update: int) -> float:
        """Return the rate of the given update; the first one is 1."""
        number = count("num_update", num_update, 0)
        if number < self.warmup_steps:
            return self.get_warmup_lr(number)
        return self.decayed_lr(number)

    def get_warmup_lr(self, num_update: int) -> float:
        """Return the rate of an update before `warmup_steps`."""
        if self.warmup_mode == "constant":
            return self.warmup_begin_lr
        return self.warmup_begin_lr + (self.base_lr - self.warmup_begin_lr) * num_update / self.warmup_steps

    def decayed_lr(self, num_update: int) -> float:
        """Return the rate of an update from `warmup_steps` on; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} must define decayed_lr(num_update)")

    def with_base_lr(self, lr: float) -> Self:
        """Return a copy that warms up to and decays from another base rate.

        Raises
        ------
        TypeError, ValueError
            If `lr` is no rate, or below `warmup_begin_lr`.
        """
        changed = copy.copy(self)
        changed.base_lr = rate("base_lr", lr)
        changed._check_warmup()
        return changed

    def _check_warmup(self) -> None:
        if self.warmup_begin_lr > self.base_lr:
            raise ValueError(
                f"warmup_begin_lr must not be above base_lr, but {self.warmup_begin_lr} > {self.base_lr}: "
                "lower warmup_begin_lr or raise the base learning rate"
            )


class FactorScheduler(LRScheduler):
    """Multiplies the rate by `factor` after every `step` updates, but not below `stop_factor_lr`.

    With `k = (n - 1) // step`, the rate of update n is `max(base_lr * factor**k, stop_factor_lr)`, and
    `base_lr` itself while k is 0. The updates of the warm-up count.

    Parameters
    ----------
    step : int
        Number of updates between changes; >= 1.
    factor : float
        From 0 to 1.
    stop_factor_lr : float
        Smallest rate after a change; finite, >= 0.
    base_lr, warmup_steps, warmup_begin_lr, warmup_mode
        See `LRScheduler`.
    """

    def __init__(
        self,
        step: int,
        factor: float = 1,
        stop_factor_lr: float = 1e-8,
        base_lr: float = 0.01,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0,
        warmup_mode: str = "linear",
    ) -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        self.step = count("step", step, 1)
        self.factor = decay_factor(factor)
        self.stop_factor_lr = rate("stop_factor_lr", stop_factor_lr)

    def decayed_lr(self, num_update: int) -> float:
        """Return the rate of an update from `warmup_steps` on."""
        if num_update <= self.step:
            return self.base_lr
        return max(self.base_lr * self.factor ** ((num_update - 1) // self.step), self.stop_factor_lr)


class MultiFactorScheduler(LRScheduler):
    """Multiplies the rate by `factor` after each of the given updates.

    The rate of update n is `base_lr * factor**k`, where k of the numbers in `step` are below n.

    Parameters
    ----------
    step : sequence of int
        Numbers of updates, >= 1 and increasing.
    factor : float
        From 0 to 1.
    base_lr, warmup_steps, warmup_begin_lr, warmup_mode
        See `LRScheduler`.
    """

    def __init__(
        self,
        step: Sequence[int],
        factor: float = 1,
        base_lr: float = 0.01,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0,
        warmup_mode: str = "linear",
    ) -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        if not isinstance(step, list | tuple):
            raise TypeError(f"step must be a list of update numbers, not {step!r}; put one in brackets")
        self.step = tuple(count(f"step[{i}]", number, 1) for i, number in enumerate(step))
        if not self.step or any(b <= a for a, b in zip(self.step, self.step[1:], strict=False)):
            raise ValueError(f"step must hold one or more update numbers, increasing, not {step!r}")
        self.factor = decay_factor(factor)

    def decayed_lr(self, num_update: int) -> float:
        """Return the rate of an update from `warmup_steps` on."""
        return self.base_lr * self.factor ** bisect_left(self.step, num_update)


class _RampScheduler(LRScheduler):
    """Goes from `base_lr` after the warm-up to `final_lr` at `max_update`, and stays there."""

    def __init__(
        self,
        max_update: int,
        base_lr: float = 0.01,
        final_lr: float = 0,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0,
        warmup_mode: str = "linear",
    ) -> None:
        super().__init__(base_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        self.final_lr = rate("final_lr", final_lr)
        self.max_update = count("max_update", max_update, 1)
        if self.max_update <= self.warmup_steps:
            raise ValueError(
                f"max_update must be above warmup_steps, but {self.max_update} <= {self.warmup_steps}: "
                "max_update counts the updates of the warm-up too"
            )

    def decayed_lr(self, num_update: int) -> float:
        """Return the rate of an update from `warmup_steps` on."""
        last = self.max_update - self.warmup_steps
        done = min(num_update - self.warmup_steps, last)
        return self.final_lr + (self.base_lr - self.final_lr) * self._remaining(done, last)

    def _remaining(self, done: int, last: int) -> float:
        """Return the part of the fall that is left after `done` of `last` updates."""
        raise NotImplementedError  # abstract: each schedule has its own curve


class CosineScheduler(_RampScheduler):
    """Falls from `base_lr` to `final_lr` as half a cosine wave, and stays there.

    With T = max_update - warmup_steps and n updates since the warm-up, the rate is
    `final_lr + (base_lr - final_lr) * (1 + cos(pi * min(n, T) / T)) / 2`.

    Parameters
    ----------
    max_update : int
        Number of the update that reaches `final_lr`; above `warmup_steps`.
    final_lr : float
        Rate from `max_update` on; finite, >= 0.
    base_lr, warmup_steps, warmup_begin_lr, warmup_mode
        See `LRScheduler`.
    """

    def _remaining(self, done: int, last: int) -> float:
        return (1 + math.cos(math.pi * done / last)) / 2


class PolyScheduler(_RampScheduler):
    """Falls from `base_lr` to `final_lr` as a power of the updates left, and stays there.

    With T = max_update - warmup_steps and n updates since the warm-up, the rate is
    `final_lr + (base_lr - final_lr) * (1 - min(n, T) / T)**pwr`.

    Parameters
    ----------
    pwr : float
        Exponent; finite, >= 0.
    max_update, base_lr, final_lr, warmup_steps, warmup_begin_lr, warmup_mode
        See `CosineScheduler`.
    """

    def __init__(
        self,
        max_update: int,
        base_lr: float = 0.01,
        pwr: float = 2,
        final_lr: float = 0,
        warmup_steps: int = 0,
        warmup_begin_lr: float = 0,
        warmup_mode: str = "linear",
    ) -> None:
        super().__init__(max_update, base_lr, final_lr, warmup_steps, warmup_begin_lr, warmup_mode)
        self.power = rate("pwr", pwr)

    def _remaining(self, done: int, last: int) -> float:
        remaining: float = (1 - done / last) ** self.power
        return remaining

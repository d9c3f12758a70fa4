"""The scalar rows that kernels read, kept equal to what the optimizer's numbers are in each call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from stepspec.rates import Rate, Rates, host_scalar
from stepspec.states import Array

_RATE = ("lr", "wd", "t")


class Inputs:
    """Fills rows of float64 with one number per tensor, and skips what has not changed.

    A name is, in this order: a scalar of the optimizer's `host`, one of `lr`, `wd` and `t`, an attribute.

    Parameters
    ----------
    rows
        Name to row; rows may be added until `fill`.
    labels
        What messages call the tensors.

    """

    def __init__(self, rows: Mapping[str, Array], labels: Sequence[str]) -> None:
        self._rows = rows
        self._labels = labels
        self._values: dict[str, tuple[float, ...]] = {}
        self._of: tuple[int, ...] = ()
        self._positions: Array = np.zeros(0, np.int64)

    def compute(self, optimizer: Any, rates: Rates) -> dict[str, tuple[float, ...]]:
        """Return name to numbers, one per distinct rate; ValueError if one cannot be computed."""
        return {name: self._compute(optimizer, name, rates) for name in self._rows}

    def fill(self, values: Mapping[str, tuple[float, ...]], rates: Rates) -> None:
        """Write the rows that differ from the last call's."""
        if rates.of is not self._of and rates.of != self._of:
            self._values.clear()
            self._positions = np.array(rates.of, np.int64)
        self._of = rates.of
        for name, numbers in values.items():
            if self._values.get(name) != numbers or 0.0 in numbers:  # -0.0 equals 0.0
                self._values.pop(name, None)  # Ctrl-C may come before the row is filled
                if len(numbers) == 1:
                    self._rows[name].fill(numbers[0])
                else:
                    np.take(np.array(numbers), self._positions, out=self._rows[name])
                self._values[name] = numbers

    def _compute(self, optimizer: Any, name: str, rates: Rates) -> tuple[float, ...]:
        if name in optimizer.host:
            firsts = map(rates.of.index, range(len(rates.distinct)))
            return tuple(map(partial(self._host, optimizer, name), rates.distinct, firsts))
        if name in _RATE:
            place = _RATE.index(name)
            return tuple(float(rate[place]) for rate in rates.distinct)
        # hyperparameters are stored as checked floats under their names
        own = optimizer.__dict__
        return (own[name] if name in own else float(getattr(optimizer, name)),)

    def _host(self, optimizer: Any, name: str, rate: Rate, tensor: int) -> float:
        if optimizer.frozen_at_zero_rate and rate.lr == 0:
            return 0.0  # no kernel reads it
        return host_scalar(optimizer, name, rate, self._labels[tensor])

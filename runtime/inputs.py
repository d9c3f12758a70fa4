"""The scalar rows that kernels read, kept equal to what the optimizer's numbers are in each call."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from stepspec.rates import Rate, Rates, host_scalar
from stepspec.states import Array

_RATE = ("lr", "wd", "t")

Values = Mapping[str, tuple[float, ...]]


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
        # the bits of what a row was filled with: 0.0 and -0.0 differ
        self._filled: dict[str, bytes] = {}
        self._of: object = None
        # what decided about all rows in the last call, if nothing else did
        self._source: object = None

    def compute(self, optimizer: Any, rates: Rates) -> Values:
        """Return name to numbers, one per distinct rate; ValueError if one cannot be computed.

        Nothing at all means that no row changes.
        """
        if self._source is not None and self._source == self._source_of(optimizer, rates):
            return {}
        return {name: self._compute(optimizer, name, rates) for name in self._rows}

    def fill(self, values: Values, optimizer: Any, rates: Rates) -> None:
        """Write the rows that differ from the last call's."""
        if not values:
            return
        self._source = None  # Ctrl-C may come before all rows are filled
        if rates.of is not self._of:
            self._filled.clear()
            self._of = rates.of
        for name, numbers in values.items():
            bits = struct.pack(f"{len(numbers)}d", *numbers)
            if self._filled.get(name) != bits:
                self._filled.pop(name, None)
                if len(numbers) == 1:
                    self._rows[name].fill(numbers[0])
                else:
                    np.take(np.array(numbers), rates.of, out=self._rows[name])
                self._filled[name] = bits
        if all(name in ("lr", "wd") or self._is_own(optimizer, name) for name in values):
            self._source = self._source_of(optimizer, rates)

    def _source_of(self, optimizer: Any, rates: Rates) -> object:
        """Return what learning rates, decays and hyperparameters follow from."""
        numbers = [number for rate in rates.distinct for number in (rate.lr, rate.wd)]
        bits = struct.pack(f"{len(numbers)}d", *numbers)
        return optimizer._versions, bits, id(rates.of), len(self._rows)

    def _is_own(self, optimizer: Any, name: str) -> bool:
        """Tell whether a name is a hyperparameter's; changes of these are versions of the optimizer."""
        return name not in optimizer.host and name not in _RATE and name in optimizer.__dict__

    def _compute(self, optimizer: Any, name: str, rates: Rates) -> tuple[float, ...]:
        if name in optimizer.host:
            firsts = map(rates.first, range(len(rates.distinct)))
            return tuple(map(partial(self._host, optimizer, name), rates.distinct, firsts))
        if name in _RATE:
            place = _RATE.index(name)
            return tuple([float(rate[place]) for rate in rates.distinct])
        # hyperparameters are stored as checked floats under their names
        own = optimizer.__dict__
        return (own[name] if name in own else float(getattr(optimizer, name)),)

    def _host(self, optimizer: Any, name: str, rate: Rate, tensor: int) -> float:
        if optimizer.frozen_at_zero_rate and rate.lr == 0:
            return 0.0  # no kernel reads it
        return host_scalar(optimizer, name, rate, self._labels[tensor])

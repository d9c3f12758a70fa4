"""Recognising a call about arrays on a device: whether it is about the very tensors of a plan."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from stepspec.counts import Counts
from stepspec.cuda.arrays import Quick
from stepspec.plan import Given
from stepspec.recognition import Members
from stepspec.tally import Tally

_LISTS = (list, tuple, range)


class Known(Members):
    """Indices, weights and states of some tensors as they were: the same objects in the same memory.

    Parameters
    ----------
    given
        The arguments of a checked call.
    names
        The names of each tensor's states.

    Attributes
    ----------
    tally
        The update counts, looked up whenever a call is recognised.
    reader
        What reads addresses and streams of the weights and then all states.

    """

    def __init__(self, given: Given, names: Sequence[tuple[str, ...]], counts: Counts) -> None:
        super().__init__([*map(int, given.indices)], given.states, names)
        self.tally = Tally(counts, self.indices)
        kept = (state[name] for state, own in zip(given.states, names, strict=True) for name in own)
        self.arrays = (*given.weights, *kept)
        self.reader = Quick(self.arrays, keep=True)
        self._addresses = self.reader.addresses(self.arrays)

    def recognise(self, indices: Any, weights: Any, states: Any, begin: int) -> bool:
        """Tell whether a call is about exactly these tensors, and look up their counts."""
        count = len(self.indices)
        if any(type(given) not in _LISTS or len(given) != count for given in (indices, weights, states)):
            return False
        return self.matches(tuple(indices), tuple(weights), tuple(states), begin)

    def matches(
        self, indices: tuple[Any, ...], weights: tuple[Any, ...], states: tuple[Any, ...], begin: int
    ) -> bool:
        """Do what `recognise` does, of tuples of one length."""
        if not self._same_indices(indices):
            return False
        found = self._state_arrays(states)
        if found is None:
            return False
        arrays = (*weights, *found)
        if not all(map(operator.is_, arrays, self.arrays)):
            return False
        # an array may have been given other memory
        addresses = self.reader.addresses(arrays)
        if addresses is None or self._addresses is None or not np.array_equal(addresses, self._addresses):
            return False
        self.tally.read(begin)
        return True

"""Recognising a call: whether it is about the very tensors that a plan was made for."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stepspec import arrays, objects, reading_calls
from stepspec.arrays import Snapshot
from stepspec.counts import Counts
from stepspec.states import Array
from stepspec.tally import Tally

# what an index may be without a closer look
_INDEX_TYPES = {int, *(np.dtype(code).type for code in np.typecodes["AllInteger"])}
_TOO_LARGE = 1 << 63


class Members:
    """The indices of some tensors, and where the states of each are kept.

    Parameters
    ----------
    indices, states
        Of a checked call.
    names
        The names of each tensor's states.

    """

    def __init__(
        self,
        indices: Sequence[int],
        states: Sequence[Mapping[str, Any]],
        names: Sequence[tuple[str, ...]],
    ) -> None:
        self.indices = tuple(indices)
        self._dicts, self._names = tuple(states), names
        self._lengths = [*map(len, names)]

    def _same_indices(self, indices: tuple[Any, ...]) -> bool:
        return indices == self.indices and _INDEX_TYPES.issuperset(map(type, indices))

    def _state_arrays(self, states: Sequence[Any]) -> list[Any] | None:
        """Return all state arrays of a call in order; None if the dicts hold others than they held."""
        known = all(map(operator.is_, states, self._dicts)) or {dict}.issuperset(map(type, states))
        if not known or [*map(len, states)] != self._lengths:
            return None
        try:
            return [s[name] for s, own in zip(states, self._names, strict=True) for name in own]
        except KeyError:
            return None


class Known(Members):
    """Indices, weights and states of some tensors as they were: shapes, strides and dtypes included.

    Parameters
    ----------
    indices, weights, states
        Of a checked call.
    names
        The names of each tensor's states.

    Attributes
    ----------
    indices
        As given.
    snapshot
        Of all weights, then of all states.
    tally
        The update counts, looked up whenever a call is recognised.

    """

    def __init__(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        states: Sequence[Mapping[str, Array]],
        names: Sequence[tuple[str, ...]],
        counts: Counts,
    ) -> None:
        super().__init__(indices, states, names)
        self.tally = Tally(counts, indices)
        self._counts = counts
        kept = [state[name] for state, own in zip(states, names, strict=True) for name in own]
        self.snapshot = Snapshot([*weights, *kept])
        self._report = np.zeros(3, np.int64)
        numbers = [index if index < _TOO_LARGE else -1 for index in self.indices]
        self._table = objects.Table(
            reading_calls.KNOWN,
            count=len(self.indices),
            list=id(list),
            tuple=id(tuple),
            int=id(int),
            get=objects.GET,
            as_int=objects.AS_INT,
            fields=self.snapshot.fields,
            extents=self.snapshot.extents,
            indices=np.array([*map(id, self.indices)], np.int64),
            values=np.array(numbers, np.int64),
            dicts=np.array([*map(id, self._dicts)], np.int64),
            kept=np.array([*map(len, names), len(kept)], np.int64),
            names=np.array([id(name) for own in names for name in own], np.int64),
            places=self.tally.places,
            ahead=self.tally.ahead,
            report=self._report,
        )
        self._reported = memoryview(self._report.data)

    def recognise(self, indices: Any, weights: Any, states: Any, begin: int) -> bool:
        """Tell whether a call is about exactly these tensors, and look up their counts.

        The arguments are anything; what is unusual is not recognised here, but perhaps by `matches`.
        """
        known, counts = self._table.address, self._counts.address
        if not BULK or not reading_calls.recognise(
            known, id(indices), id(weights), id(states), counts, begin
        ):
            return False
        if self._reported[1]:
            self.tally.read(begin)
        else:
            self.tally.first = self._reported[0]
        return True

    def matches(
        self, indices: tuple[Any, ...], weights: tuple[Any, ...], states: tuple[Any, ...], begin: int
    ) -> bool:
        """Do what `recognise` does, with indices and dicts that are others, but say the same."""
        if self.recognise(indices, weights, states, begin):
            return True
        if not self._same_indices(indices):
            return False
        found = self._state_arrays(states)
        if found is None or not self.snapshot.unchanged((*weights, *found)):
            return False
        self.tally.read(begin)
        return True


def _recognition_works() -> bool:
    """Compare compiled recognition with what Python says of some calls."""
    # with other sizes the positions could lie beyond the object
    if not arrays.BULK or (list.__basicsize__, dict.__basicsize__) != (40, 48):
        return False
    weights, one = [np.zeros((2, 3)), np.zeros(4)], np.zeros(2)
    states: list[dict[str, Array]] = [{"a": one, "b": one[:1]}, {}]
    other, large = {"a": one, "b": one.copy()}, 1 << 40
    known = Known([3, large], weights, states, [("a", "b"), ()], Counts())
    same = ([3, int(str(large))], tuple(weights), states)
    different: tuple[tuple[Any, Any, Any], ...] = (
        ([3, 4], weights, states),
        ([large, 3], weights, states),
        ([3, large], weights[::-1], states),
        ([3, large], weights, states[::-1]),
        ([3, large], weights, [other, {}]),
        ([3], weights, states),
        (range(2), weights, states),
    )
    recognised = [known.recognise(*call, begin=5) for call in (same, *different)]
    first = known.tally.first
    states[0]["b"] = other["b"]
    recognised.append(known.recognise(*same, begin=5))
    return recognised == [True] + [False] * 8 and first == 5


BULK = True  # for the test
BULK = _recognition_works()

"""The update counts of an optimizer's tensors, in one place."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepspec.exclusive import joined

Int64s = NDArray[np.int64]
Action = Callable[[], object]
# where the counts of some tensors lie: consecutive ones need no list
Places = slice | Int64s

_ABSENT = -1


class Counts(Mapping[int, int]):
    """How many updates each tensor has had, by index; tensors without an update are not in it.

    The numbers stand in one int64 array, -1 for a tensor without an update, so that those of many tensors are
    read and set at once. What sets them is a function written in C, see `stepspec.exclusive.joined`.
    """

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._memory = _Memory(np.full(8, _ABSENT))
        # the largest count; None: to be found out
        self._highest: list[int | None] = [None]

    def __getitem__(self, index: int) -> int:
        count = int(self._memory.numbers[self._places[index]])
        if count == _ABSENT:
            raise KeyError(index)
        return count

    def __iter__(self) -> Iterator[int]:
        numbers = self._memory.numbers
        return (index for index, place in self._places.items() if numbers[place] != _ABSENT)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._memory.numbers != _ABSENT))

    @property
    def address(self) -> int:
        """Where the numbers lie; they move when room is made for new tensors."""
        return self._memory.address

    @property
    def highest(self) -> int:
        """The largest count, -1 without any."""
        highest = self._highest[0]
        if highest is None:
            highest = self._highest[0] = int(self._memory.numbers.max())
        return highest

    def places(self, indices: Sequence[int]) -> Int64s:
        """Return the positions of some tensors' counts, after making room for those that have none."""
        known, numbers = self._places, self._memory.numbers
        new = {index for index in indices if index not in known}
        if len(known) + len(new) > numbers.size:
            room = np.full(2 * (len(known) + len(new)) - numbers.size, _ABSENT)
            self._memory = _Memory(np.concatenate([numbers, room]))
        return np.array([known.setdefault(index, len(known)) for index in indices], np.int64)

    def read(self, places: Places, begin: int) -> Int64s:
        """Return the counts at some positions, `begin` for tensors without an update."""
        numbers = self._memory.numbers[places]
        return np.where(numbers == _ABSENT, begin, numbers)

    def setting(self, places: Places, numbers: int | Int64s, highest: int | None = None) -> Action:
        """Return what sets the counts at some positions; it can be called once.

        `highest` is the largest of the numbers, if that is known.
        """
        known = None if highest is None else max(highest, self.highest)
        change = partial(operator.setitem, self._memory.numbers, places, numbers)
        return joined((change, partial(operator.setitem, self._highest, 0, known)))

    def loading(self, numbers: Mapping[int, int | None]) -> Action:
        """Return what sets the counts of some tensors, or takes them away (None); it can be called once."""
        values = [_ABSENT if number is None else number for number in numbers.values()]
        return self.setting(self.places(list(numbers)), np.array(values, np.int64))

    def update(self, numbers: Mapping[int, int]) -> None:
        """Set the counts of some tensors."""
        self.loading(numbers)()

    def copy(self) -> Counts:
        """Return counts of their own."""
        made = Counts()
        made.update(self)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _of, (dict(self),)


class _Memory:
    """An int64 array and its address."""

    def __init__(self, numbers: Int64s) -> None:
        self.numbers = numbers
        self.address: int = numbers.ctypes.data


def _of(numbers: Mapping[int, int]) -> Counts:
    counts = Counts()
    counts.update(numbers)
    return counts


def consecutive(places: Int64s) -> Places:
    """Return positions as a slice if they follow each other."""
    if places.size and np.array_equal(places, np.arange(places[0], places[0] + places.size)):
        return slice(int(places[0]), int(places[0]) + places.size)
    return places

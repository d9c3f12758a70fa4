"""The update counts of the tensors of a call, and the rates that follow from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stepspec.counts import Action, Counts, consecutive
from stepspec.rates import Multipliers, Rate, Rates, distinct

Int64s = NDArray[np.int64]


class Tally:
    """Where the counts of some tensors are kept, and by how much each is ahead of the first one.

    Tensors that are always updated together keep their distances: then a call needs one number only.

    Attributes
    ----------
    places
        The positions of the counts.
    ahead
        The distances; changed in place.
    first
        The count of the first tensor before the call.

    """

    def __init__(self, counts: Counts, indices: Sequence[int]) -> None:
        self._counts = counts
        self.places = counts.places(indices)
        self._where = consecutive(self.places)
        self.ahead = np.zeros(len(indices), np.int64)
        self._most, self._level = 0, True
        self.first = 0
        self._multipliers: Multipliers | None = None
        self._factors: tuple[tuple[float, float, int], ...] = ()
        self._of: Int64s = np.zeros(0, np.int64)

    def read(self, begin: int) -> None:
        """Look all counts up; those of tensors without an update are `begin`."""
        found = self._counts.read(self._where, begin)
        self.first = int(found[0]) if found.size else -1
        ahead = found - self.first
        if not np.array_equal(ahead, self.ahead):
            self._multipliers = None
            self._most, self._level = int(ahead.max()), not ahead.any()
            self.ahead[:] = ahead  # last: Ctrl-C may come before

    @property
    def highest(self) -> int:
        """The largest of the counts before the call."""
        return self.first + self._most

    def rates(self, lr: float, wd: float, multipliers: Multipliers) -> Rates:
        """Apply the multipliers and group the tensors by (lr, wd, t), where t is one more than the count."""
        if multipliers is not self._multipliers and multipliers != self._multipliers:
            self._group(multipliers)
        self._multipliers = multipliers
        t = self.first + 1
        return Rates(tuple([Rate(lr * a, wd * b, t + ahead) for a, b, ahead in self._factors]), self._of)

    def _group(self, multipliers: Multipliers) -> None:
        pairs = multipliers.distinct
        if self._level:
            self._of = np.array(multipliers.of, np.int64)
            self._factors = tuple((*pair, 0) for pair in pairs if self._of.size)
        else:
            groups, of = distinct(list(zip(multipliers.of, self.ahead.tolist(), strict=True)))
            self._factors = tuple((*pairs[k], ahead) for k, ahead in groups)
            self._of = np.array(of, np.int64)

    def raising(self, part: range) -> Action:
        """Return what counts the update of some of the tensors, in one go; it can be called once."""
        t = self.first + 1
        if len(part) == self.ahead.size:
            return self._counts.setting(self._where, t if self._level else self.ahead + t, t + self._most)
        ahead = self.ahead[part.start : part.stop]
        return self._counts.setting(self.places[part.start : part.stop], ahead + t, t + int(ahead.max()))

"""Arrays on devices that were found not to overlap: whether those of the next step lie apart, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stepspec.arrays import Snapshot, is_plain
from stepspec.cuda.arrays import Quick
from stepspec.cuda.gradients import Written
from stepspec.states import Array


class KnownApart:
    """What some written arrays and gradients are, and where.

    Parameters
    ----------
    written, gradients
        The arrays, on devices; of row-sparse gradients the values.
    seen_written, seen_gradients
        Their shadows.

    """

    def __init__(
        self,
        written: Sequence[Any],
        gradients: Sequence[Any],
        seen_written: Sequence[Array],
        seen_gradients: Sequence[Array],
    ) -> None:
        self._written, self._gradients = Quick(written, keep=True), Quick(gradients)
        self._places = self._written.addresses(written)
        self._memory = Written(Snapshot(seen_written))
        self._sizes = np.array([array.nbytes for array in seen_gradients], np.int64)
        self._are_plain = all(map(is_plain, seen_gradients))

    def lie_apart(self, written: Sequence[Any], gradients: Sequence[Any]) -> bool:
        """Tell, in a short time, that gradients like the known ones do not meet the known arrays."""
        places, lows = self._written.addresses(written), self._gradients.addresses(gradients)
        if not self._are_plain or self._places is None or places is None or lows is None:
            return False
        return np.array_equal(places, self._places) and not self._memory.meets(lows, self._sizes)

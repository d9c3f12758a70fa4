"""The tensors of a plan that rates decide about: which are updated lazily, and which are left alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stepspec.checks import Entry
from stepspec.formats import compute_dtype
from stepspec.rates import Rates
from stepspec.states import Array

if TYPE_CHECKING:
    from stepspec.steps import Steps

# what decides, besides rates, whether a row-sparse update may leave rows alone: flags, a weight, the dtype
_Facts = tuple[dict[str, bool], Array, Any]


class Selections:
    """Asks once per distinct rate and kind of tensor; the same answers give the same sets, and quickly."""

    def __init__(self, entries: Sequence[Entry], sparse: Sequence[int]) -> None:
        self._facts: dict[object, _Facts] = {}
        self._sparse = [(i, self._kind(entries[i])) for i in sparse]
        self._of: object = None
        self._cases: dict[tuple[int, object], list[int]] = {}
        self._lazy: tuple[tuple[bool, ...], frozenset[int]] = (), frozenset()
        self._frozen: tuple[object, tuple[int, ...], frozenset[int]] = None, (), frozenset()

    def lazy(self, optimizer: Steps, rates: Rates) -> frozenset[int]:
        """Return the positions of the tensors of which only the rows of their gradients are updated."""
        if not self._sparse:
            return frozenset()
        if rates.of is not self._of:
            self._cases = {}
            for i, kind in self._sparse:
                self._cases.setdefault((int(rates.of[i]), kind), []).append(i)
            self._of, self._lazy = rates.of, ((), frozenset())
        answers = tuple(
            [optimizer._is_lazy(rates.distinct[k], *self._facts[kind]) for k, kind in self._cases]
        )
        if answers != self._lazy[0]:
            chosen = (tensors for tensors, yes in zip(self._cases.values(), answers, strict=True) if yes)
            self._lazy = answers, frozenset().union(*chosen)
        return self._lazy[1]

    def frozen(self, optimizer: Steps, rates: Rates) -> frozenset[int]:
        """Return the positions of tensors that a rule dividing by lr leaves alone: those with a rate of 0."""
        if not optimizer.frozen_at_zero_rate:
            return frozenset()
        zero = tuple([k for k, rate in enumerate(rates.distinct) if rate.lr == 0])
        if not zero:
            return frozenset()
        if self._frozen[0] is not rates.of or self._frozen[1] != zero:
            positions = np.flatnonzero(np.isin(rates.of, zero))
            self._frozen = rates.of, zero, frozenset(positions.tolist())
        return self._frozen[2]

    def _kind(self, entry: Entry) -> object:
        dtype = compute_dtype(entry.target.dtype).type
        kind = tuple(entry.flags.items()), max(entry.weight.ndim, 1), entry.weight.size == 0, dtype
        self._facts.setdefault(kind, (entry.flags, entry.weight, dtype))
        return kind

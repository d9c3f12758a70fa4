"""What the generated steps of an optimizer stand on: checks of a call, its tensors, its launches."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stepspec.checks import Entry, check_call
from stepspec.formats import is_half
from stepspec.noise import tensor_key
from stepspec.notices import warn
from stepspec.rates import Rate
from stepspec.rating import Rating
from stepspec.sparse import RowSparse
from stepspec.states import Array
from stepspec.tally import Tally
from stepspec.tensors import Tensor, tensors

if TYPE_CHECKING:
    from stepspec.call import Call


class Steps(Rating):
    """Checks calls, and gives `step` their tensors and `fused_step` a context to launch from."""

    def _tensors(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array | RowSparse],
        states: Sequence[dict[str, Array]],
    ) -> Iterator[Tensor]:
        """Check a call, then yield its tensors one by one; each `store` writes one tensor and counts it."""
        turn = self._exclusive.take(type(self).__name__)
        try:
            entries, rates = self._checked(indices, weights, grads, states)
            sparse = next((entry for entry in entries if isinstance(entry.grad, RowSparse)), None)
            if self._lazy and sparse is not None:
                raise ValueError(
                    f"{type(self).__name__}: lazy_update needs fused_step, and {sparse.label} has a "
                    "row-sparse gradient; `step` has no lazy form"
                )
            self._note_layouts(entries)
            yield from tensors(self, entries, rates)
        finally:
            self._exclusive.give_back(turn)

    def _call(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array | RowSparse],
        states: Sequence[dict[str, Array]],
    ) -> Call:
        """Return a context which checks a call, is told its launches, then runs them and counts."""
        return _fused()(self, (indices, weights, grads, states))

    def _verify(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array | RowSparse],
        states: Sequence[dict[str, Array]],
    ) -> None:
        """Raise what an update would raise, and change nothing."""
        if self.use_fused_step:
            from stepspec.call import verify

            verify(self, (indices, weights, grads, states))
        else:
            self._checked(indices, weights, grads, states)

    def _checked(self, indices: Any, weights: Any, grads: Any, states: Any) -> tuple[list[Entry], list[Rate]]:
        """Make all checks of a call; return its tensors and the rate of each."""
        entries = self._check(indices, weights, grads, states)
        numbers = [entry.index for entry in entries]
        tally = Tally(self._counts, numbers)
        tally.read(self._begin)
        lr = self._rate_after(tally.highest)
        rates = tally.rates(lr, self.wd, self._per_tensor.multipliers(numbers))
        single = [i for i, entry in enumerate(entries) if entry.formats.compute == "float32"]
        self._check_rates(rates, numbers, single)
        self._check_host(rates, numbers)
        return entries, [rates.distinct[k] for k in rates.of]

    def _check(self, indices: Any, weights: Any, grads: Any, states: Any) -> list[Entry]:
        entries = check_call(self, indices, weights, grads, states)
        for entry in entries:
            if entry.master is None and is_half(entry.weight.dtype):
                self._warn_of_rounding(entry.index, entry.weight)
        return entries

    def _note_layouts(self, entries: Sequence[Entry]) -> None:
        """Remember which states there are: hyperparameters that decide about them are fixed from now on."""
        for entry in entries:
            self._note_layout(entry.flags, max(entry.weight.ndim, 1), entry.layout)

    def _is_lazy(self, p: Rate, flags: dict[str, bool], weight: Array, dtype: Any) -> bool:
        """Tell whether a row-sparse gradient leaves the rows alone that it does not hold.

        Rows of no elements are never proven to stay: the mean of one is NaN.
        """
        if self._lazy or weight.size == 0:
            return self._lazy
        with np.errstate(over="ignore"):
            return self._lazy_is_exact(p, flags, max(weight.ndim, 1), dtype)

    def _noise_key(self, index: int) -> int:
        """Return the key of a tensor's noise."""
        return tensor_key(self.seed, self._per_tensor.names.get(index, str(index)))

    def _flags(self, index: int) -> dict[str, bool]:
        return {name: self._per_tensor.flag(index, name, rule) for name, rule in self.flags.items()}

    def _warn_of_rounding(self, index: int, weight: Array) -> None:
        if self._warned or self.multi_precision or self.rounding == "stochastic":
            return
        self._warned = True
        warn(
            f"the weight of {self._label(index)} has dtype {weight.dtype} and no master: updates smaller "
            "than its precision are lost; pass multi_precision=True and use create_state_multi_precision, or "
            "pass rounding='stochastic'"
        )


@functools.cache
def _fused() -> type[Call]:
    """Import late, and without the cost of an import statement in each call, what loads Numba."""
    from stepspec.call import Call

    return Call

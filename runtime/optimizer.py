"""The base class of all optimizers: states, updates, and what the generated steps stand on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stepspec.checks import Entry, check_call, check_index, check_weight
from stepspec.rates import Multipliers, Rates, combine, host_scalar
from stepspec.settings import Settings
from stepspec.states import Array
from stepspec.tensors import Tensor, tensors

if TYPE_CHECKING:
    from stepspec.call import Call


class Optimizer(Settings):
    """Base of all optimizers.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None
        None takes the scheduler's base rate, or 0.01 without one. A number overrides the scheduler's base.
    rescale_grad : float
        Factor of every gradient; any finite number.
    param_idx2name : dict of int to str, optional
        Names of tensors, for multipliers, flags and messages.
    wd : float in [0, inf)
        Weight decay.
    clip_gradient : float in (0, inf), optional
        Bound of every rescaled gradient element; None (read as inf) is off.
    lr_scheduler : callable, optional
        From the number of updates to a learning rate; those of `stepspec.lr_scheduler` have a base rate.
    begin_num_update : int
        The update count every tensor starts from.
    multi_precision : bool
        Keep float32 masters of half precision weights; float32 and float64 weights need none.
    param_dict : dict of int to object, optional
        Objects whose attributes `lr_mult`, `wd_mult` and flags decide for the tensor of that index.
    aggregate_num : int or inf, optional
        Tensors per launch; None and inf: all. Results do not depend on it.
    use_fused_step : bool
        Whether `update` takes `fused_step` (compiled) or `step` (NumPy). They give the same bits.

    Raises
    ------
    TypeError
        For an unknown argument or one of a wrong type.
    ValueError
        For a value out of its range.

    """

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        Raises
        ------
        TypeError
            If `weight` is not a NumPy array of float32 or float64.

        """
        return self._create_state(index, weight)

    def create_state_multi_precision(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states as `create_state` does: float32 and float64 weights need no master."""
        return self.create_state(index, weight)

    def step(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array],
        states: Sequence[dict[str, Array]],
    ) -> None:
        """Update weights and states in place: the reference, in NumPy."""
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def fused_step(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array],
        states: Sequence[dict[str, Array]],
    ) -> None:
        """Update weights and states in place with compiled kernels: the bits of `step`."""
        raise NotImplementedError(f"{type(self).__name__} has no fused_step")

    def update(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array],
        states: Sequence[dict[str, Array]],
    ) -> None:
        """Update some tensors in place, by `fused_step` or, if `use_fused_step` is False, by `step`.

        Parameters
        ----------
        indices : list of int
            The tensors' numbers, each once.
        weights : list of numpy.ndarray
            float32 or float64, writable, any shape and strides; no two may overlap.
        grads : list of numpy.ndarray
            Shape and dtype of the weights. Never written; may be read-only, and shared by tensors.
        states : list of dict
            What `create_state` gave for each tensor.

        Raises
        ------
        TypeError
            For what is no list, no NumPy array, no dict, or has the wrong dtype.
        ValueError
            For wrong shapes, missing states, read-only or overlapping arrays, and numbers out of range.
            Both name the tensor, and a refused call changes neither arrays nor counts.
        RuntimeError
            If another thread is in the middle of an update of this optimizer.

        """
        run = self.fused_step if self.use_fused_step else self.step
        run(indices, weights, grads, states)

    def update_multi_precision(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array],
        states: Sequence[dict[str, Array]],
    ) -> None:
        """Update some tensors with the states of `create_state_multi_precision`; see `update`."""
        self.update(indices, weights, grads, states)

    # ------------------------------------------------------------------ what generated code calls

    def _create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Make the states of one tensor, C-contiguous, in its dtype."""
        index = check_index(index)
        weight = check_weight(self._label(index), weight)
        flags, ndim = self._flags(index), max(weight.ndim, 1)
        layout = self._layout(flags, ndim)
        states = {name: state.create(weight) for name, state in layout.items()}
        self._note_layout(flags, ndim, layout)
        return states

    def _tensors(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array],
        states: Sequence[dict[str, Array]],
    ) -> Iterator[Tensor]:
        """Check a call, then yield its tensors one by one; each `store` writes one tensor and counts it."""
        turn = self._exclusive.take(type(self).__name__)
        try:
            entries = self._check(indices, weights, grads, states)
            numbers = [entry.index for entry in entries]
            rates = self._rates(numbers, self._per_tensor.multipliers(numbers))
            self._check_host(rates, numbers)
            each = [rates.distinct[k] for k in rates.of]
            yield from tensors(entries, each, self._counts, self.frozen_at_zero_rate)
        finally:
            self._exclusive.give_back(turn)

    def _call(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array],
        states: Sequence[dict[str, Array]],
    ) -> Call:
        """Return a context which checks a call, is told its launches, then runs them and counts."""
        from stepspec.call import Call

        return Call(self, (indices, weights, grads, states))

    def _check(self, indices: Any, weights: Any, grads: Any, states: Any) -> list[Entry]:
        entries = check_call(self, indices, weights, grads, states)
        for entry in entries:
            self._note_layout(entry.flags, max(entry.weight.ndim, 1), entry.layout)
        return entries

    def _rates(self, indices: Sequence[int], multipliers: Multipliers) -> Rates:
        """Raise the counts of all tensors (in a copy), then look up the rate once."""
        before = self._counts_of(indices)
        highest = max(set(before), default=-1) + 1
        if len(self._counts) > len(before):
            highest = max(highest, self.num_update)
        lr = self._rate_at(max(highest, self._begin))
        rates = combine(lr, self.wd, multipliers, indices, before)
        for k, rate in enumerate(rates.distinct):
            finite = math.isfinite(rate.lr) and math.isfinite(rate.wd)
            if finite and (self.uses_wd or rate.wd == 0):
                continue
            label = self._label(indices[rates.of.index(k)])
            if not finite:
                raise ValueError(f"{label}: a rate is not finite: lr = {rate.lr}, wd = {rate.wd}")
            raise ValueError(
                f"{label}: {type(self).__name__} has no weight decay, but wd is {rate.wd}; "
                "set wd or the tensor's wd_mult to 0"
            )
        return rates

    def _counts_of(self, indices: Sequence[int]) -> list[int]:
        try:
            return [*map(self._counts.__getitem__, indices)]
        except KeyError:
            return [self._counts.get(index, self._begin) for index in indices]

    def _check_host(self, rates: Rates, indices: Sequence[int]) -> None:
        """Compute every host scalar once, so that none fails between two writes."""
        for k, rate in enumerate(rates.distinct):
            if not (self.frozen_at_zero_rate and rate.lr == 0):
                for name in self.host:
                    host_scalar(self, name, rate, self._label(indices[rates.of.index(k)]))

    def _label(self, index: int) -> str:
        return self._per_tensor.label(index)

    def _flags(self, index: int) -> dict[str, bool]:
        return {name: self._per_tensor.flag(index, name, rule) for name, rule in self.flags.items()}

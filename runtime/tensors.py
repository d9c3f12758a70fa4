"""The tensors of a call as the readable `step` sees them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from stepspec import noise
from stepspec.checks import Entry
from stepspec.exclusive import uninterrupted
from stepspec.formats import compute_dtype
from stepspec.rates import Rate
from stepspec.sparse import RowSparse
from stepspec.states import Array

if TYPE_CHECKING:
    from stepspec.steps import Steps

Action = Callable[[], object]


class Tensor:
    """One tensor of a call of `step`: arrays of at least one dimension, rates, and the way to store results.

    Of a row-sparse gradient whose absent rows change nothing, only the present rows are seen and stored.

    Attributes
    ----------
    dtype
        The compute dtype as a function: ``dtype(lr * trust)`` rounds a number to it once.
    weight, grad
        Arrays of the compute dtype, the weight from its master if it has one; a rule makes new values and
        never writes into them.
    state
        Name to array; a state kept per tensor is a float64 number.
    flags
        Name to truth of the tensor's flags.
    lr, wd, t
        Rate and decay with multipliers applied, update count from 1.

    """

    __slots__ = (
        "_commit",
        "_entry",
        "_noise_key",
        "_rows",
        "dtype",
        "flags",
        "grad",
        "lr",
        "state",
        "t",
        "wd",
        "weight",
    )

    def __init__(self, optimizer: Steps, entry: Entry, rate: Rate, commit: Action) -> None:
        compute = compute_dtype(entry.target.dtype)
        self._commit, self._entry = commit, entry
        self.lr, self.wd, self.t = rate
        self.flags = entry.flags
        self.dtype: Any = compute.type
        self._rows: Any = ...
        grad = entry.grad
        if isinstance(grad, RowSparse):
            lazy = optimizer._is_lazy(rate, entry.flags, entry.weight, compute.type)
            self._rows = grad.rows if lazy else ...
            grad = grad.values if lazy else grad.to_dense(compute)
        self.grad: Any = np.atleast_1d(grad).astype(compute, copy=False)
        self.weight: Any = self._read(entry.target)
        self.state: dict[str, Any] = {
            name: array[0] if entry.layout[name].per == "tensor" else self._read(array)
            for name, array in entry.state.items()
        }
        self._noise_key = optimizer._noise_key(entry.index)

    def _read(self, array: Array) -> Any:
        return np.atleast_1d(array)[self._rows].astype(self.dtype, copy=False)

    def normal(self, stream: int = 1) -> Any:
        """Return a standard normal number for each element that is seen, by the n-th draw of the rule.

        They are of the compute dtype and shaped like the weight; see Note [Noise].
        """
        target = np.atleast_1d(self._entry.target)
        elements = np.arange(target.size, dtype=np.uint64).reshape(target.shape)[self._rows]
        return noise.normals(self._noise_key, self.t, stream, elements, self.dtype)

    def store(self, **values: Any) -> None:
        """Write the new weight and states, each rounded once, and count the update; Ctrl-C splits nothing."""
        entry, writes = self._entry, []
        for name, value in values.items():
            for target in self._targets(name):
                if np.ndim(value):
                    others = [array for array in entry.written.values() if array is not target]
                    source = self._rounded(_apart(value, others), target)
                else:
                    source = value
                writes.append(partial(operator.setitem, target, self._rows, source))
        uninterrupted([*writes, self._commit])

    def _targets(self, name: str) -> list[Array]:
        entry = self._entry
        if name != "weight":
            return [entry.state[name]]
        return [entry.weight] if entry.master is None else [entry.master, entry.weight]

    def _rounded(self, value: Any, target: Array) -> Any:
        """Return a value as it is to be stored in some rows of an array, or in all of it."""
        if target is self._entry.weight and self._entry.stochastic:
            value = self._stochastic(value, target)
        return value if self._rows is not ... else np.reshape(value, target.shape)

    def _stochastic(self, value: Any, target: Array) -> Any:
        words = noise.words(self._noise_key, self.t, np.atleast_1d(target).shape)[self._rows]
        return noise.round_stochastically(np.ascontiguousarray(value), target.dtype, words)


def _apart(value: Any, targets: list[Array]) -> Any:
    """Copy a value that is memory of another target, as in ``previous = weight``."""
    return value.copy() if any(np.may_share_memory(value, target) for target in targets) else value


def tensors(optimizer: Steps, entries: list[Entry], rates: list[Rate]) -> Iterator[Tensor]:
    """Yield the tensors of a checked call; one that a rate of 0 freezes is only counted."""
    counts = optimizer._counts
    places = counts.places([entry.index for entry in entries])
    for k, (entry, rate) in enumerate(zip(entries, rates, strict=True)):
        commit = counts.setting(slice(places[k], places[k] + 1), rate.t, rate.t)
        if optimizer.frozen_at_zero_rate and rate.lr == 0:
            commit()
        else:
            yield Tensor(optimizer, entry, rate, commit)

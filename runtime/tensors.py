"""The tensors of a call as the readable `step` sees them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from stepspec.checks import Entry
from stepspec.exclusive import uninterrupted
from stepspec.rates import Rate
from stepspec.states import Array


class Tensor:
    """One tensor of a call of `step`: arrays of at least one dimension, rates, and the way to store results.

    Attributes
    ----------
    dtype
        The compute dtype as a function: ``dtype(lr * trust)`` rounds a number to it once.
    weight, grad
        Views of the caller's arrays; a rule makes new values and never writes into them.
    state
        Name to array; a state kept per tensor is a float64 number.
    flags
        Name to truth of the tensor's flags.
    lr, wd, t
        Rate and decay with multipliers applied, update count from 1.

    """

    __slots__ = ("_commit", "_targets", "dtype", "flags", "grad", "lr", "state", "t", "wd", "weight")

    def __init__(self, entry: Entry, rate: Rate, commit: Callable[[], object]) -> None:
        self._commit = commit
        self.lr, self.wd, self.t = rate
        self.flags = entry.flags
        self.dtype: Any = entry.weight.dtype.type
        self.grad: Any = np.atleast_1d(entry.grad)
        self._targets = {"weight": entry.weight, **entry.state}
        self.weight: Any = np.atleast_1d(entry.weight)
        self.state: dict[str, Any] = {
            name: array[()] if entry.layout[name].per == "tensor" else np.atleast_1d(array)
            for name, array in entry.state.items()
        }

    def store(self, **values: Any) -> None:
        """Write the new weight and states, each rounded once, and count the update; Ctrl-C splits nothing."""
        writes = []
        for name, value in values.items():
            target = self._targets[name]
            others = [array for other, array in self._targets.items() if other != name]
            source = np.reshape(_apart(value, others), target.shape) if np.ndim(value) else value
            writes.append(partial(operator.setitem, target, ..., source))
        uninterrupted([*writes, self._commit])


def _apart(value: Any, targets: list[Array]) -> Any:
    """Copy a value that is memory of another target, as in ``previous = weight``."""
    return value.copy() if any(np.may_share_memory(value, target) for target in targets) else value


def tensors(
    entries: list[Entry], rates: list[Rate], counts: dict[int, int], frozen: bool
) -> Iterator[Tensor]:
    """Yield the tensors of a checked call; where `frozen`, one with rate 0 is only counted."""
    for entry, rate in zip(entries, rates, strict=True):
        commit = partial(counts.update, {entry.index: rate.t})
        if frozen and rate.lr == 0:
            commit()
        else:
            yield Tensor(entry, rate, commit)

"""Plans of arrays in the host's memory: tables for compiled code, and threads that walk them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from stepspec import cpu
from stepspec.checks import Entry
from stepspec.compilation import log
from stepspec.exclusive import uninterrupted
from stepspec.gradients import GradientRows
from stepspec.inputs import Inputs
from stepspec.plan import Given, Order, Plan, address_rows, names_of, noise_counts, noisy
from stepspec.rates import Rates
from stepspec.recognition import Known
from stepspec.states import Array
from stepspec.tables import Tables
from stepspec.work import Work

if TYPE_CHECKING:
    from stepspec.steps import Steps

Action = Callable[[], object]
# an array of the caller, and the memory of the plan that stands for it
Copy = tuple[Array, Array]


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that are launched together: their positions, their work, and what to do after it."""

    part: range
    work: Work
    finish: tuple[Action, ...]


class HostPlan(Plan[tuple[Group, ...]]):
    """Snapshot, tables and work of the tensors of a call.

    Weights and states that are not C-contiguous are worked on in contiguous buffers of the plan.
    """

    target = "cpu"
    known: Known
    gradients: GradientRows

    def __init__(self, optimizer: Steps, entries: Sequence[Entry], given: Given) -> None:
        super().__init__(optimizer, entries, given)
        self._weights = [entry.weight for entry in entries]
        names = [names_of(entry) for entry in entries]
        self.known = Known(self.indices, self._weights, given.states, names, optimizer._counts)
        self.gradients = GradientRows(entries, self.known.snapshot)
        self._buffers: list[list[Copy]] = [[] for _ in entries]
        arrays = {"grad": self.gradients.addresses, **address_rows(entries, self._contiguous(names))}
        self.tables = Tables(self.shapes, arrays, self.gradients.present_rows, self.gradients.present)
        self._noisy = noisy(optimizer, entries)
        for i in self._noisy:
            self.tables.noise_key[i] = optimizer._noise_key(self.indices[i])
        self.inputs = Inputs(self.tables.inputs, self.labels)
        self.copied = tuple(
            label for label, buffers in zip(self.labels, self._buffers, strict=True) if buffers
        )
        rows, self._states = self._per_tensor(entries)
        self._loads = [*chain.from_iterable(self._buffers), *rows]

    @classmethod
    def check(cls, optimizer: Steps, given: Given) -> list[Entry]:
        """Make all checks of a call."""
        return optimizer._check(*given)

    def take_gradients(self, grads: tuple[Any, ...]) -> Sequence[Any] | None:
        """Take gradients as they lie, or copied; None if the call needs all checks."""
        return self.gradients.take(grads, self._weights)

    def take_checked(self, entries: Sequence[Entry], grads: tuple[Any, ...]) -> Sequence[Any]:
        """Take gradients that have been checked."""
        return self.gradients.take_checked(entries)

    # ------------------------------------------------------------------ launching it

    def rouse(self) -> None:
        """Wake threads up for what was launched before: they come while the call is checked."""
        for _, groups in self._launches[:1]:
            for group in groups[:1]:
                cpu.rouse(group.work)

    def run(self, optimizer: Steps, rates: Rates, order: Order) -> None:
        """Fill the tables, do the work of each group and count."""
        groups = self.launches(order)
        self.inputs.fill(self.inputs.compute(optimizer, rates), optimizer, rates)
        # arrays that are not contiguous, states per tensor, and counts
        for array, memory in self._loads:
            memory[...] = array
        if self._noisy:
            self.tables.noise_count[:] = noise_counts(rates)
        self.note_layouts(optimizer)
        for group in groups:
            _launch(group, self.known.tally.raising(group.part))

    def counts(self, order: Order) -> list[tuple[int, int]]:
        """Return how many batches and parallel regions there are of the tensors launched together."""
        return [(group.work.batches.size - 1, 1) for group in self.launches(order)]

    def _made(self, order: Order) -> tuple[Group, ...]:
        return tuple([self._group(order, part) for part in order.parts(len(self.indices))])

    def _group(self, order: Order, part: range) -> Group:
        moving = [tensor for tensor in part if tensor not in order.frozen]
        work = self.tables.work(order.stages, moving, order.lazy)
        copies = [
            partial(operator.setitem, array, ..., buffer)
            for tensor in moving
            for array, buffer in self._buffers[tensor]
        ]
        stores = [
            partial(operator.setitem, array, ..., self.tables.scalars[row][tensor : tensor + 1].reshape(()))
            for tensor in moving
            for name, row in order.stores.items()
            if (array := self._states[tensor].get(name)) is not None
        ]
        return Group(part, work, (*copies, *stores))

    # ------------------------------------------------------------------ making it

    def _contiguous(self, names: Sequence[tuple[str, ...]]) -> Array:
        """Return where all arrays lie, or buffers that stand for those which kernels cannot walk."""
        snapshot, count = self.known.snapshot, len(names)
        firsts = count + np.cumsum([0, *map(len, names)], dtype=np.int64)[:-1]
        found = snapshot.addresses.copy()
        for k in snapshot.odd.tolist():
            array = snapshot.arrays[k]
            tensor = k if k < count else int(np.searchsorted(firsts, k, "right")) - 1
            log.info("an array of %s is not C-contiguous: every step copies it", self.labels[tensor])
            buffer = np.empty(array.shape, array.dtype.type)
            self._buffers[tensor].append((array, buffer))
            found[k] = buffer.ctypes.data
        return found

    def _per_tensor(self, entries: Sequence[Entry]) -> tuple[list[Copy], list[dict[str, Array]]]:
        """Make a row of scalars of each state that is one number per tensor."""
        loads: list[Copy] = []
        states: list[dict[str, Array]] = []
        for i, entry in enumerate(entries):
            own = {name: array for name, array in entry.state.items() if entry.layout[name].per == "tensor"}
            states.append(own)
            for name, array in own.items():
                row = self.tables.known_scalar(name)
                loads.append((array, row[i : i + 1]))
        return loads, states


def _launch(group: Group, commit: Action) -> None:
    """Do the work of a group and what comes after it, or nothing of both.

    Note [Ctrl-C]

    Python handles signals after calls, between bytecodes. The work of a group is one call into compiled code,
    and in one go with it the rest is done: buffers are copied back and the updates counted.
    """
    uninterrupted((cpu.prepared(group.work), *group.finish, commit))
    group.work.raise_if_failed()

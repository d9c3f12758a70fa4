"""A plan: everything about one set of tensors that does not change from call to call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stepspec import cpu, noise
from stepspec.batches import Shape, Stage
from stepspec.checks import Entry
from stepspec.compilation import log
from stepspec.gradients import GradientRows
from stepspec.inputs import Inputs
from stepspec.rates import Multipliers, Rates
from stepspec.recognition import Known
from stepspec.selections import Selections
from stepspec.states import Array, Layout, Variant
from stepspec.tables import Tables
from stepspec.work import Work

if TYPE_CHECKING:
    from stepspec.steps import Steps

Action = Callable[[], object]
# an array of the caller, and the memory of the plan that stands for it
Copy = tuple[Array, Array]

# so many launches of the same tensors are kept: learning rates and decays of 0 may come and go
ORDERS = 4


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that are launched together: their positions, their work, and what to do after it."""

    part: range
    work: Work
    finish: tuple[Action, ...]


class Order(NamedTuple):
    """What a call asks for: stages, rows that become states, frozen and lazy tensors, tensors per launch."""

    stages: tuple[Stage, ...]
    stores: Mapping[str, str]
    frozen: frozenset[int]
    lazy: frozenset[int]
    together: int


class Plan:
    """Snapshot, tables and launches of the tensors of a call. Counts and gradients are not part of it.

    Weights and states that are not C-contiguous are worked on in contiguous buffers of the plan.
    """

    def __init__(
        self, optimizer: Steps, entries: Sequence[Entry], states: Sequence[dict[str, Array]]
    ) -> None:
        self.indices = tuple([entry.index for entry in entries])
        self.labels = tuple([entry.label for entry in entries])
        self._multipliers: Multipliers | None = None
        self._versions = optimizer._versions
        self._storage = _storage(optimizer)
        self._had_objects = True  # in param_dict, perhaps
        self._is_noted = False
        # the numbers and the grouping of tensors that were last found to be within bounds
        self._accepted: tuple[float, float, float] | None = None
        self._accepted_of: Array | None = None
        self._flags = [entry.flags for entry in entries]
        self._kinds = _kinds(entries)
        self._weights = [entry.weight for entry in entries]
        self._names = [_names(entry) for entry in entries]
        self.known = Known(self.indices, self._weights, states, self._names, optimizer._counts)
        self.gradients = GradientRows(entries, self.known.snapshot)
        self.selections = Selections(entries, self.gradients.sparse)
        self._buffers: list[list[Copy]] = [[] for _ in entries]
        shapes = [Shape.of(entry.weight.shape, entry.formats, entry.variant) for entry in entries]
        arrays = {"grad": self.gradients.addresses, **self._addresses(entries)}
        self.tables = Tables(shapes, arrays, self.gradients.present_rows, self.gradients.present)
        self.single = [i for i, shape in enumerate(shapes) if shape.formats.compute == "float32"]
        self._noisy = [i for i, entry in enumerate(entries) if entry.stochastic]
        for i in self._noisy:
            self.tables.noise_key[i] = optimizer._noise_key(self.indices[i])
        self.inputs = Inputs(self.tables.inputs, self.labels)
        self.copied = tuple(
            label for label, buffers in zip(self.labels, self._buffers, strict=True) if buffers
        )
        rows, self._states = self._per_tensor(entries)
        self._loads = [*chain.from_iterable(self._buffers), *rows]
        self._launches: list[tuple[Order, tuple[Group, ...]]] = []

    # ------------------------------------------------------------------ recognising a call

    def still_right(self, optimizer: Steps) -> bool:
        """Tell whether the optimizer would still treat the tensors as when the plan was made."""
        versions = optimizer._versions
        has_objects = bool(optimizer._per_tensor.objects)
        if has_objects or self._had_objects or versions[1] != self._versions[1]:
            self._multipliers = None
            if optimizer.flags and [optimizer._flags(index) for index in self.indices] != self._flags:
                return False
        if versions[0] != self._versions[0]:
            if _storage(optimizer) != self._storage:
                return False
            for flags, ndim, variant, layout in self._kinds:
                if optimizer._variant(flags, ndim) != variant or optimizer._layout(flags, ndim) != layout:
                    return False
        self._versions, self._had_objects = versions, has_objects
        return True

    def note_layouts(self, optimizer: Steps) -> None:
        """Tell the optimizer, at the first step, which states there are."""
        if not self._is_noted:
            for flags, ndim, _, layout in self._kinds:
                optimizer._note_layout(flags, ndim, layout)
            self._is_noted = True

    def current_multipliers(self, optimizer: Steps) -> Multipliers:
        """Return the tensors' multipliers; those of `param_dict` may have changed since the last call."""
        if self._multipliers is None or optimizer._per_tensor.objects:
            self._multipliers = optimizer._per_tensor.multipliers(self.indices)
        return self._multipliers

    def take_gradients(self, grads: tuple[Any, ...]) -> Sequence[Any] | None:
        """Take gradients as they lie, or copied; None if the call needs all checks."""
        return self.gradients.take(grads, self._weights)

    def rates(self, optimizer: Steps) -> Rates:
        """Return the rates of a recognised call; ValueError if there are none, or they are refused."""
        tally, own = self.known.tally, optimizer.__dict__
        lr, wd = optimizer._rate_after(tally.highest), own["wd"]
        rates = tally.rates(lr, wd, self.current_multipliers(optimizer))
        numbers = lr, wd, own["rescale_grad"]
        if numbers != self._accepted or rates.of is not self._accepted_of:
            optimizer._check_rates(rates, self.indices, self.single)
            self._accepted, self._accepted_of = numbers, rates.of
        return rates

    # ------------------------------------------------------------------ launching it

    def rouse(self) -> None:
        """Wake threads up for what was launched before: they come while the call is checked."""
        for _, groups in self._launches[:1]:
            cpu.rouse(groups[0].work)

    def load(self, rates: Rates) -> None:
        """Copy arrays that are not contiguous into buffers, states per tensor and counts into their rows."""
        for array, memory in self._loads:
            memory[...] = array
        for i in self._noisy:
            self.tables.noise_count[i] = rates.distinct[rates.of[i]].t & noise.WORD_MASK

    def groups(self, order: Order) -> tuple[Group, ...]:
        """Return the launches of a call."""
        for known, groups in self._launches:
            if known == order:
                return groups
        count = len(self.indices)
        starts = range(0, count, order.together)
        parts = [range(start, min(start + order.together, count)) for start in starts]
        groups = tuple(self._group(order, part) for part in parts)
        self._launches = [(order, groups), *self._launches][:ORDERS]
        return groups

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

    def _addresses(self, entries: Sequence[Entry]) -> dict[str, Array]:
        """Return the rows of kernels' arrays; with a master it is the weight, and the weight is its copy."""
        count = len(entries)
        # of the snapshot's arrays, where the states of each tensor begin
        firsts = count + np.cumsum([0, *map(len, self._names)], dtype=np.int64)[:-1]
        found = self._contiguous(firsts)
        rows: dict[str, Array] = {"weight": found[:count].copy()}
        for tensors in _alike(entries):
            layout = entries[tensors[0]].layout
            for k, name in enumerate(self._names[tensors[0]]):
                place = found[firsts[tensors] + k]
                if name == "master":
                    rows.setdefault("copy", np.zeros(count, np.int64))[tensors] = found[tensors]
                    rows["weight"][tensors] = place
                elif layout[name].per != "tensor":
                    rows.setdefault(name, np.zeros(count, np.int64))[tensors] = place
        return rows

    def _contiguous(self, firsts: Array) -> Array:
        """Return where all arrays lie, or buffers that stand for those which kernels cannot walk."""
        snapshot, count = self.known.snapshot, len(firsts)
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
                loads.append((array, row[i : i + 1].reshape(())))
        return loads, states


def _storage(optimizer: Steps) -> tuple[bool, str, int]:
    """Return what decides how weights are stored."""
    return optimizer.multi_precision, optimizer.rounding, optimizer.seed


def _names(entry: Entry) -> tuple[str, ...]:
    """Return the names of a tensor's states in order, a master at the end."""
    return tuple(entry.state) if entry.master is None else (*entry.state, "master")


def _alike(entries: Sequence[Entry]) -> list[list[int]]:
    """Return the positions of tensors that have the same states, together."""
    found: dict[tuple[int, bool], list[int]] = {}
    for i, entry in enumerate(entries):
        found.setdefault((id(entry.layout), entry.master is None), []).append(i)
    return list(found.values())


def _kinds(entries: Sequence[Entry]) -> list[tuple[dict[str, bool], int, Variant, Layout]]:
    """Return the distinct things the rule was specialised by, and what came of it."""
    found = (entries[tensors[0]] for tensors in _alike(entries))
    return [(entry.flags, max(entry.weight.ndim, 1), entry.variant, entry.layout) for entry in found]

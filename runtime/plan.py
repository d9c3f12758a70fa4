"""A plan: everything about one set of tensors that does not change from call to call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stepspec import noise
from stepspec.arrays import Snapshot, is_plain
from stepspec.batches import Run, Shape, Stage
from stepspec.checks import Entry
from stepspec.compilation import log
from stepspec.formats import compute_dtype
from stepspec.gradients import GradientRows
from stepspec.inputs import Inputs
from stepspec.rates import Multipliers, Rates
from stepspec.states import Array, Layout, Variant
from stepspec.tables import Tables

if TYPE_CHECKING:
    from stepspec.optimizer import Optimizer

Action = Callable[[], object]
# an array of the caller, and the memory of the plan that stands for it
Copy = tuple[Array, Array]

# what an index may be without a closer look
_INDEX_TYPES = {int, *(np.dtype(code).type for code in np.typecodes["AllInteger"])}


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that are launched together: their indices, runs, and what to do after the last run."""

    indices: tuple[int, ...]
    reading: list[Run]
    writing: list[Run]
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
        self, optimizer: Optimizer, entries: Sequence[Entry], states: Sequence[dict[str, Array]]
    ) -> None:
        self.indices = tuple(entry.index for entry in entries)
        self.labels = tuple(entry.label for entry in entries)
        self._multipliers: Multipliers | None = None
        self._versions = optimizer._versions
        self._storage = _storage(optimizer)
        self._had_objects = True  # in param_dict, perhaps
        self._is_noted = False
        self._dicts = tuple(states)
        self._flags = [entry.flags for entry in entries]
        self._kinds = _kinds(entries)
        self._names = tuple(tuple(entry.written)[1:] for entry in entries)
        self._number = sum(map(len, self._names))
        self._get = itemgetter(*self._names[0]) if entries and self._names[0] else None
        self._alike = len(set(self._names)) == 1
        kept = (
            entry.written[name] for entry, names in zip(entries, self._names, strict=True) for name in names
        )
        self._snapshot = Snapshot([*(entry.weight for entry in entries), *kept])
        self.gradients = GradientRows(entries)
        self._sparse = {i: _lazy_facts(entries[i]) for i in self.gradients.sparse}
        self._buffers: list[list[Copy]] = [[] for _ in entries]
        shapes = [Shape.of(entry.weight.shape, entry.formats, entry.variant) for entry in entries]
        arrays = {"grad": self.gradients.addresses, **self._addresses(entries)}
        self.tables = Tables(shapes, arrays, self.gradients.present_rows, self.gradients.present)
        self.single = [i for i, shape in enumerate(shapes) if shape.formats.compute == "float32"]
        self._noisy = [i for i, entry in enumerate(entries) if entry.stochastic]
        for i in self._noisy:
            self.tables.noise_key[i] = optimizer._noise_key(self.indices[i])
        self.inputs = Inputs(self.tables.inputs, self.labels)
        self.plain = not any(self._buffers)
        self.copied = tuple(
            label for label, buffers in zip(self.labels, self._buffers, strict=True) if buffers
        )
        rows, self._states = self._per_tensor(entries)
        self._loads = [*chain.from_iterable(self._buffers), *rows]
        self._order: Order | None = None
        self._groups: tuple[Group, ...] = ()

    # ------------------------------------------------------------------ recognising a call

    def matches(self, indices: Sequence[Any], weights: Sequence[Any], states: Sequence[Any]) -> bool:
        """Tell whether a call is about exactly these tensors, arrays, shapes, strides and dtypes."""
        if len(indices) != len(self.indices) or not self._same_indices(indices):
            return False
        found = self._state_arrays(states)
        return found is not None and self._snapshot.unchanged((*weights, *found))

    def _same_indices(self, indices: Sequence[Any]) -> bool:
        if all(map(operator.is_, indices, self.indices)):
            return True
        return tuple(indices) == self.indices and _INDEX_TYPES.issuperset(map(type, indices))

    def _state_arrays(self, states: Sequence[Any]) -> Iterable[Any] | None:
        """Return all state arrays of a call in the plan's order; None if the dicts are not as they were.

        Each has the names it had, and together they have no more.
        """
        known = all(map(operator.is_, states, self._dicts)) or {dict}.issuperset(map(type, states))
        if not known or sum(map(len, states)) != self._number:
            return None
        try:
            if not self._alike:
                return [s[name] for names, s in zip(self._names, states, strict=True) for name in names]
            if self._get is None:
                return ()
            found = tuple(map(self._get, states))
            return found if len(self._names[0]) == 1 else chain.from_iterable(found)
        except KeyError:
            return None

    def still_right(self, optimizer: Optimizer) -> bool:
        """Tell whether the optimizer would still treat the tensors as when the plan was made."""
        versions = optimizer._versions
        has_objects = bool(optimizer.param_dict)
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

    def note_layouts(self, optimizer: Optimizer) -> None:
        """Tell the optimizer, at the first step, which states there are."""
        if not self._is_noted:
            for flags, ndim, _, layout in self._kinds:
                optimizer._note_layout(flags, ndim, layout)
            self._is_noted = True

    def current_multipliers(self, optimizer: Optimizer) -> Multipliers:
        """Return the tensors' multipliers; those of `param_dict` may have changed since the last call."""
        if self._multipliers is None or optimizer.param_dict:
            self._multipliers = optimizer._per_tensor.multipliers(self.indices)
        return self._multipliers

    def take_gradients(self, grads: tuple[Any, ...]) -> bool:
        """Take gradients as they lie; False if the call needs all checks or copies."""
        return self.plain and self.gradients.take(grads)

    def lazy(self, optimizer: Optimizer, rates: Rates) -> frozenset[int]:
        """Return the positions of the tensors of which only the rows of their gradients are updated."""
        return frozenset(
            i for i, facts in self._sparse.items() if optimizer._is_lazy(rates.distinct[rates.of[i]], *facts)
        )

    # ------------------------------------------------------------------ launching it

    def load(self, rates: Rates) -> None:
        """Copy arrays that are not contiguous into buffers, states per tensor and counts into their rows."""
        for array, memory in self._loads:
            memory[...] = array
        for i in self._noisy:
            self.tables.noise_count[i] = rates.counts[self.indices[i]] & noise.WORD_MASK

    def groups(self, order: Order) -> tuple[Group, ...]:
        """Return the launches of a call."""
        if order != self._order:
            count = len(self.indices)
            starts = range(0, count, order.together)
            parts = [range(start, min(start + order.together, count)) for start in starts]
            self._groups = tuple(self._group(order, part) for part in parts)
            self._order = order
        return self._groups

    def _group(self, order: Order, part: range) -> Group:
        moving = [tensor for tensor in part if tensor not in order.frozen]
        reading, writing = self.tables.runs(order.stages, moving, order.lazy)
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
        return Group(self.indices[part.start : part.stop], reading, writing, (*copies, *stores))

    # ------------------------------------------------------------------ making it

    def _addresses(self, entries: Sequence[Entry]) -> dict[str, Array]:
        """Return the rows of kernels' arrays; with a master it is the weight, and the weight is its copy."""
        rows: dict[str, Array] = {}
        for i, entry in enumerate(entries):
            kept = {name: array for name, array in entry.state.items() if entry.layout[name].per != "tensor"}
            copy = {} if entry.master is None else {"copy": entry.weight}
            for name, array in {"weight": entry.target, **copy, **kept}.items():
                row = rows.setdefault(name, np.zeros(len(entries), np.int64))
                row[i] = self._contiguous(array, i).ctypes.data
        return rows

    def _contiguous(self, array: Array, tensor: int) -> Array:
        """Return the array itself or, where kernels cannot walk it, a buffer that stands for it."""
        if is_plain(array):
            return array
        log.info("an array of %s is not C-contiguous: every step copies it", self.labels[tensor])
        buffer = np.empty(array.shape, array.dtype.type)
        self._buffers[tensor].append((array, buffer))
        return buffer

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


def _storage(optimizer: Optimizer) -> tuple[bool, str, int]:
    """Return what decides how weights are stored."""
    return optimizer.multi_precision, optimizer.rounding, optimizer.seed


def _lazy_facts(entry: Entry) -> tuple[dict[str, bool], Array, Any]:
    """Return what decides, besides rates, whether a row-sparse update may leave rows alone."""
    return entry.flags, entry.weight, compute_dtype(entry.target.dtype).type


def _kinds(entries: Sequence[Entry]) -> list[tuple[dict[str, bool], int, Variant, Layout]]:
    """Return the distinct things the rule was specialised by, and what came of it."""
    kinds = {}
    for entry in entries:
        ndim = max(entry.weight.ndim, 1)
        kinds[tuple(entry.flags.items()), ndim] = entry.flags, ndim, entry.variant, entry.layout
    return list(kinds.values())

"""A plan: everything about one set of tensors that does not change from call to call, wherever they live."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from stepspec import noise
from stepspec.batches import Shape, Stage
from stepspec.checks import Entry
from stepspec.rates import Multipliers, Rates
from stepspec.selections import Selections
from stepspec.states import Array, Layout, Variant
from stepspec.tally import Tally

if TYPE_CHECKING:
    from stepspec.steps import Steps

# so many launches of the same tensors are kept: learning rates and decays of 0 may come and go
ORDERS = 4


class Given(NamedTuple):
    """The arguments of a call, each a tuple: this keeps the arrays alive, whatever another thread does."""

    indices: tuple[Any, ...]
    weights: tuple[Any, ...]
    grads: tuple[Any, ...]
    states: tuple[Any, ...]


class Order(NamedTuple):
    """What a call asks for: stages, rows that become states, frozen and lazy tensors, tensors per launch."""

    stages: tuple[Stage, ...]
    stores: Mapping[str, str]
    frozen: frozenset[int]
    lazy: frozenset[int]
    together: int

    def parts(self, count: int) -> list[range]:
        """Part so many tensors into those that are launched together."""
        together = self.together
        return [range(start, min(start + together, count)) for start in range(0, count, together)]


class Recognition(Protocol):
    """What knows the indices, weights and states of a plan, see `stepspec.recognition.Known`."""

    tally: Tally

    def recognise(self, indices: Any, weights: Any, states: Any, begin: int) -> bool: ...
    def matches(
        self, indices: tuple[Any, ...], weights: tuple[Any, ...], states: tuple[Any, ...], begin: int
    ) -> bool: ...


class Held(Protocol):
    """What a plan knows of the gradients of the present call: see `stepspec.gradients.GradientRows`."""

    copied: tuple[str, ...]
    sparse: tuple[int, ...]
    present: Array

    def fit(self, entries: Sequence[Entry]) -> bool: ...


Launches = TypeVar("Launches")


class Plan(ABC, Generic[Launches]):
    """What the optimizer says of some tensors, and their launches. Counts and gradients are not part of it.

    Attributes
    ----------
    target
        Whose kernels it launches: the ending of generated modules.
    known, gradients
        What recognises a call, and what takes its gradients.
    shapes
        The tensors.
    device
        The number of the GPU where they are; None for the host.
    copied
        What messages call those whose weights or states are worked on in contiguous buffers.
    modules
        The modules of kernels that calls have asked for, by name.

    """

    target: ClassVar[str]
    device: int | None = None
    known: Recognition
    gradients: Held
    copied: tuple[str, ...]

    def __init__(self, optimizer: Steps, entries: Sequence[Entry], given: Given) -> None:
        self.indices = tuple([entry.index for entry in entries])
        self.labels = tuple([entry.label for entry in entries])
        self.shapes = [Shape.of(entry.weight.shape, entry.formats, entry.variant) for entry in entries]
        sparse = [i for i, shape in enumerate(self.shapes) if shape.formats.gradient != "dense"]
        self.single = [i for i, shape in enumerate(self.shapes) if shape.formats.compute == "float32"]
        self.selections = Selections(entries, sparse)
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
        self._launches: list[tuple[Order, Launches]] = []
        self.modules: dict[str, ModuleType] = {}

    # ------------------------------------------------------------------ where the tensors live

    @classmethod
    @abstractmethod
    def check(cls, optimizer: Steps, given: Given) -> list[Entry]:
        """Make all checks of a call."""

    @abstractmethod
    def take_gradients(self, grads: tuple[Any, ...]) -> Sequence[Any] | None:
        """Take gradients as they lie, or copied; None if the call needs all checks.

        The caller keeps the result alive until the call has ended.
        """

    @abstractmethod
    def take_checked(self, entries: Sequence[Entry], grads: tuple[Any, ...]) -> Sequence[Any]:
        """Take gradients that have been checked."""

    @abstractmethod
    def run(self, optimizer: Steps, rates: Rates, order: Order) -> None:
        """Do what a call asks for, and count."""

    @abstractmethod
    def counts(self, order: Order) -> list[tuple[int, int]]:
        """Return how many batches and parallel regions there are of the tensors launched together."""

    @abstractmethod
    def _made(self, order: Order) -> Launches:
        """Make the launches of a call."""

    def rouse(self) -> None:
        """Begin what may begin while the call is checked."""

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

    def launches(self, order: Order) -> Launches:
        """Return the launches of a call, those of a call like an earlier one at once."""
        for known, launches in self._launches:
            if known == order:
                return launches
        made = self._made(order)
        self._launches = [(order, made), *self._launches][:ORDERS]
        return made


def _storage(optimizer: Steps) -> tuple[bool, str, int]:
    """Return what decides how weights are stored."""
    return optimizer.multi_precision, optimizer.rounding, optimizer.seed


def names_of(entry: Entry) -> tuple[str, ...]:
    """Return the names of a tensor's states in order, a master at the end."""
    return tuple(entry.state) if entry.master is None else (*entry.state, "master")


def noisy(optimizer: Steps, entries: Sequence[Entry]) -> list[int]:
    """Return the positions of tensors that need noise: for the rule, or to be rounded."""
    return [i for i, entry in enumerate(entries) if optimizer.draws_noise or entry.stochastic]


def noise_counts(rates: Rates) -> Array:
    """Return what noise takes of each tensor's update count, int64: the lower 32 bits."""
    counts = np.array([rate.t & noise.WORD_MASK for rate in rates.distinct], np.int64)
    return counts[np.array(rates.of, np.intp)]


def alike(entries: Sequence[Entry]) -> list[list[int]]:
    """Return the positions of tensors that have the same states, together."""
    found: dict[tuple[int, bool], list[int]] = {}
    for i, entry in enumerate(entries):
        found.setdefault((id(entry.layout), entry.master is None), []).append(i)
    return list(found.values())


def address_rows(entries: Sequence[Entry], found: Array) -> dict[str, Array]:
    """Return the rows of kernels' arrays; with a master it is the weight, and the weight is its copy.

    `found` is where all weights lie, then the states of all tensors.
    """
    count = len(entries)
    # where the states of each tensor begin
    firsts = count + np.cumsum([0, *[len(names_of(entry)) for entry in entries]], dtype=np.int64)[:-1]
    rows: dict[str, Array] = {"weight": found[:count].copy()}
    for tensors in alike(entries):
        layout = entries[tensors[0]].layout
        for k, name in enumerate(names_of(entries[tensors[0]])):
            place = found[firsts[tensors] + k]
            if name == "master":
                rows.setdefault("copy", np.zeros(count, np.int64))[tensors] = found[tensors]
                rows["weight"][tensors] = place
            elif layout[name].per != "tensor":
                rows.setdefault(name, np.zeros(count, np.int64))[tensors] = place
    return rows


def _kinds(entries: Sequence[Entry]) -> list[tuple[dict[str, bool], int, Variant, Layout]]:
    """Return the distinct things the rule was specialised by, and what came of it."""
    found = (entries[tensors[0]] for tensors in alike(entries))
    return [(entry.flags, max(entry.weight.ndim, 1), entry.variant, entry.layout) for entry in found]

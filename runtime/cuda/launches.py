"""The launches of a call's stages on a GPU: passes over all tensors that share kernels and formats."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from stepspec.batches import Shape, Stage, kernels_of
from stepspec.cuda.items import THREADS
from stepspec.cuda.passes import Pass, passes
from stepspec.cuda.tables import Rows, Tables, Use
from stepspec.formats import Formats
from stepspec.plan import Order
from stepspec.states import Array, Variant

if TYPE_CHECKING:
    from stepspec.cuda.compilation import Code
    from stepspec.cuda.driver import Driver, Function

Action = Callable[[], object]

# what a multiprocessor has for its blocks
REGISTERS, SHARED, MOST_THREADS = 65536, 100 * 1024, 2048


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that are launched together: their positions, those not frozen, and their passes in order."""

    part: range
    moving: tuple[int, ...]
    uses: tuple[Use, ...]


class Program:
    """The groups of a call, and the block of device memory that their launches walk.

    Parameters
    ----------
    driver, device
        Where it runs.
    shapes
        The tensors.
    order
        What the call asks for.
    fixed, live
        See `stepspec.cuda.tables.Rows`.
    kept
        States that are one number per tensor, and the tensors that have them: they are gathered into rows of
        numbers before the stages, and what becomes of them is scattered after these.

    """

    def __init__(
        self,
        driver: Driver,
        device: int,
        shapes: Sequence[Shape],
        order: Order,
        fixed: Mapping[str, Array],
        live: Mapping[str, Array],
        kept: Mapping[str, frozenset[int]],
    ) -> None:
        self._driver, self._device = driver, device
        groups = []
        for part in order.parts(len(shapes)):
            moving = [tensor for tensor in part if tensor not in order.frozen]
            uses = [
                *_kept(shapes, gather, {state: state for state in kept}, kept, moving),
                *_uses(shapes, order, moving),
                *_kept(shapes, scatter, order.stores, kept, moving),
            ]
            groups.append(Group(part, tuple(moving), tuple(uses)))
        self.groups = tuple(groups)
        uses = [use for group in groups for use in group.uses]
        # compiled, loaded and in memory before anything is launched
        self._loaded = [loaded(driver, device, use.run) for use in uses]
        slots = [slot for use in uses for slot in use.run.slots]
        self.tables = Tables(Rows(shapes, fixed, live, slots), len(shapes), uses)
        self.memory = driver.allocate(device, self.tables.size)

    def send(self, copy: Callable[[int, Array], None]) -> None:
        """Bring the block up to date; `copy` copies an array to an address."""
        self.tables.send(self.memory.address, copy)

    def launches(self, stream: int) -> list[list[Action]]:
        """Return the launches of each group, ready for a stream."""
        ready = iter(self._ready(stream))
        return [[next(ready) for use in group.uses if use.items.size] for group in self.groups]

    def _ready(self, stream: int) -> Iterator[Action]:
        uses = (use for group in self.groups for use in group.uses)
        for use, (code, function), (table, items) in zip(uses, self._loaded, self.tables.places, strict=True):
            if use.items.size:
                base = self.memory.address
                arguments = base + table, base + items, use.items.size
                grid = blocks(self._driver, self._device, code, use.items.size)
                yield self._driver.prepare(function, grid, THREADS, arguments, stream)


def blocks(driver: Driver, device: int, code: Code, items: int) -> int:
    """Return how many blocks to launch: no more than there are items, or than fit on the device at once."""
    limits = [MOST_THREADS // THREADS, REGISTERS // (THREADS * max(1, code.registers))]
    if code.shared:
        limits.append(SHARED // code.shared)
    return min(items, driver.multiprocessors(device) * max(1, min(limits)))


def loaded(driver: Driver, device: int, run: Pass) -> tuple[Code, Function]:
    """Return the code of a pass, compiled on first use, as it was loaded on a device."""
    known = _loaded.setdefault(driver, {})
    if (device, run) not in known:
        code = run.code(driver.capability(device))
        known[device, run] = code, driver.load(device, code)
    return known[device, run]


_loaded: WeakKeyDictionary[Driver, dict[tuple[int, Pass], tuple[Code, Function]]] = WeakKeyDictionary()


def _kept(
    shapes: Sequence[Shape],
    make: Callable[[str, str], Pass],
    rows: Mapping[str, str],
    kept: Mapping[str, frozenset[int]],
    tensors: Sequence[int],
) -> Iterator[Use]:
    """Yield passes between states kept per tensor and their rows of numbers."""
    for state, row in rows.items():
        having = [tensor for tensor in tensors if tensor in kept[state]]
        if having:
            yield Use.of(make(state, row), having, shapes)


@functools.cache
def gather(state: str, row: str) -> Pass:
    """Return the pass from states kept per tensor to a row of numbers."""
    from stepspec.cuda import scalar_entries

    return scalar_entries.gather(state, row)


@functools.cache
def scatter(state: str, row: str) -> Pass:
    """Return the pass from a row of numbers to states kept per tensor."""
    from stepspec.cuda import scalar_entries

    return scalar_entries.scatter(state, row)


def _uses(shapes: Sequence[Shape], order: Order, tensors: Sequence[int]) -> list[Use]:
    """Return what the stages of a call launch for some tensors, in order."""
    kinds: dict[tuple[Variant, Formats, bool], list[int]] = {}
    for i in tensors:
        kinds.setdefault((shapes[i].variant, shapes[i].formats, i in order.lazy), []).append(i)
    results = frozenset(
        reduction.name
        for stage in order.stages
        for variant in stage
        for kernel in kernels_of(stage, variant)
        for reduction in kernel.reductions
        if reduction.reduction.per == "column"
    )
    return [
        Use.of(run, users, shapes)
        for stage in order.stages
        for runs, users in _together(stage, kinds, results)
        for run in runs
    ]


def _together(
    stage: Stage, kinds: Mapping[tuple[Variant, Formats, bool], Sequence[int]], results: frozenset[str]
) -> Iterator[tuple[tuple[Pass, ...], list[int]]]:
    """Yield passes of one stage and all tensors they are launched for: formats may make no difference."""
    using: dict[tuple[Pass, ...], list[int]] = {}
    for (variant, formats, lazy), users in kinds.items():
        runs: list[Pass] = []
        for kernel in kernels_of(stage, variant):
            is_lazy = lazy and not kernel.reductions
            own = replace(formats, gradient="lazy") if is_lazy else formats
            runs += passes(kernel, own, results)
        using.setdefault(tuple(runs), []).extend(users)
    yield from using.items()

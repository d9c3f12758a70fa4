"""Work for several threads: batches of work items, and the compiled code that does them in a safe order.

Note [Waves and latches]

A *batch* is a list of work items which one thread does in order. A *wave* is a list of batches that may run
at the same time. A wave may wait for a *latch*, and its batches may count one down; whoever counts a latch
down to zero does the latch's own items, opens it, and counts down the next one, if there is one. Nothing
else orders waves: there are no barriers.

Every thread takes batches of the first wave that is open and has some left. It has a contiguous share of
each wave: the same one in every step, so that its core's cache may still hold it, and long runs of memory
suit DRAM and prefetchers. When its share is used up it takes what is left of the others'. Before it runs
ahead of a wave that is closed it watches the latch for a while, for the sake of its cache: mostly another
thread is at the last batch. Beside a busy neighbour that thread may have lost its processor for milliseconds.
Nobody waits while he has a batch, and what a latch counts stands in earlier waves: so waiting never locks up,
and one thread alone never waits. A wave may be walked backwards, from where the one before it ended.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from llvmlite import ir
from numba import int64, types

from stepspec.batches import NONE, Latch, Wave
from stepspec.compilation import compile_entry, inlined, intrinsic, source_stamp
from stepspec.memory import failures_address
from stepspec.pointers import at
from stepspec.states import Array
from stepspec.synchronization import acquire_within, add, exchange, load

# the columns of waves, latches and items
WAVE, LATCH, ITEM = 5, 4, 5
FIRST, END, WAITS, COUNTS, BACKWARDS = range(WAVE)
NUMBER, OPENS_FIRST, OPENS_END, NEXT = range(LATCH)
# the header that compiled code reads: addresses and sizes; failures before
ITEMS, BATCHES, WAVES, WAVE_COUNT, LATCHES, LATCH_COUNT, TAKEN, LEFT, BEFORE, FAILED = range(10)

SPINS = 10000  # looks at a latch before running ahead
MICROSECONDS = 50  # asleep


class Work:
    """Items, batches, waves and latches as compiled code reads them; see Note [Waves and latches].

    Parameters
    ----------
    items : int64 array of shape (n, 5), C-contiguous
        Address of an entry, address of its table, tensor, start, count: see Note [Entries]. Nothing is
        checked.
    batches : int64 array of shape (m + 1,), C-contiguous
        Batch b is the items batches[b] to batches[b + 1].
    waves : int64 array of shape (w, 5), optional
        First batch, end, the latch it waits for, the latch that each of its batches counts down (or NONE),
        and whether it is walked backwards. By default one wave holds all batches.
    latches : int64 array of shape (l, 4), optional
        How many batches and latches count it down, first and end of the items that the last one does, and
        the latch that is counted down then (or NONE).

    """

    def __init__(
        self, items: Array, batches: Array, waves: Array | None = None, latches: Array | None = None
    ) -> None:
        if waves is None:
            waves = np.array([[0, batches.size - 1, NONE, NONE, 0]], np.int64)
        if latches is None:
            latches = np.empty((0, LATCH), np.int64)
        self.items, self.batches, self.waves, self.latches = items, batches, waves, latches
        self._left = np.empty(len(latches), np.int64)
        self._header = np.zeros(10, np.int64)
        self.address: int = self._header.ctypes.data
        self.shares = 0
        for field, array in zip(
            (ITEMS, BATCHES, WAVES, LATCHES, LEFT), (items, batches, waves, latches, self._left), strict=True
        ):
            self._header[field] = array.ctypes.data
        self._header[WAVE_COUNT], self._header[LATCH_COUNT] = len(waves), len(latches)

    @classmethod
    def of(cls, waves: Sequence[Wave], latches: Sequence[Latch] = ()) -> Work:
        """Lay waves and latches out as arrays."""
        lists = [*chain.from_iterable(wave.batches for wave in waves), *(latch.items for latch in latches)]
        bounds = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        # number by number: a list of tuples would take NumPy half of what they take themselves
        numbers = chain.from_iterable(chain.from_iterable(lists))
        items = np.fromiter(numbers, np.int64, ITEM * int(bounds[-1])).reshape(-1, ITEM)
        ends = np.cumsum([len(wave.batches) for wave in waves])
        table = [
            (end - len(wave.batches), end, wave.waits, wave.counts, wave.backwards)
            for wave, end in zip(waves, ends, strict=True)
        ]
        batches = len(lists) - len(latches)
        counted = [
            (latch.number, bounds[batches + k], bounds[batches + k + 1], NONE)
            for k, latch in enumerate(latches)
        ]
        return cls(
            items,
            bounds[: batches + 1],
            np.array(table, np.int64).reshape(-1, WAVE),
            np.array(counted, np.int64).reshape(-1, LATCH),
        )

    def divide(self, shares: int) -> None:
        """Make room for so many threads."""
        if shares > self.shares:
            self._taken = np.empty(shares * len(self.waves), np.int64)
            self._header[TAKEN] = self._taken.ctypes.data
            self.shares = shares

    def raise_if_failed(self) -> None:
        """Raise MemoryError if a kernel found no memory while it was done, see Note [Out of memory]."""
        if self._header[FAILED]:
            raise MemoryError(
                "no memory for the scratch of a kernel: some rows or tensors may not have been updated"
            )


@intrinsic
def call(typing: Any, function: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Call, by its address, a C function of four int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 4)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@inlined
def _do_items(header: Any, first: int, end: int) -> None:
    """Do items in order, unless memory ran out since the work began: then nothing more is written."""
    item = at(header[ITEMS], int64)
    for k in range(ITEM * first, ITEM * end, ITEM):
        if load(failures_address()) != header[BEFORE]:
            return
        call(item[k], item[k + 1], item[k + 2], item[k + 3], item[k + 4])


@inlined
def _count_down(header: Any, latch: int) -> None:
    latches = at(header[LATCHES], int64)
    while latch != NONE:
        left = header[LEFT] + 8 * latch
        if add(left, -1) != 2:  # the last step, from 1 to 0, is the opening
            return
        row = LATCH * latch
        _do_items(header, latches[row + OPENS_FIRST], latches[row + OPENS_END])
        exchange(left, 0)
        latch = latches[row + NEXT]


@inlined
def _is_open(header: Any, wave: int) -> bool:
    latch = at(header[WAVES], int64)[WAVE * wave + WAITS]
    is_open: bool = latch == NONE or load(header[LEFT] + 8 * latch) == 0
    return is_open


@inlined
def _take(header: Any, wave: int, me: int, shares: int) -> int:
    """Take a batch of a wave, of this thread's share as long as there is one; NONE if none is left."""
    waves, row = at(header[WAVES], int64), WAVE * wave
    first, size = waves[row + FIRST], waves[row + END] - waves[row + FIRST]
    for k in range(shares):
        share = (me + k) % shares
        low, high = size * share // shares, size * (share + 1) // shares
        taken = header[TAKEN] + 8 * (share * header[WAVE_COUNT] + wave)
        if load(taken) < high - low:
            position = add(taken, 1)
            if position < high - low:
                batch: int = first + (high - 1 - position if waves[row + BACKWARDS] else low + position)
                return batch
    return NONE


@inlined
def begin(work: int, shares: int) -> None:
    """Close all latches and put all batches back, for so many threads."""
    header = at(work, int64)
    header[BEFORE] = load(failures_address())
    taken, left, latches = at(header[TAKEN], int64), at(header[LEFT], int64), at(header[LATCHES], int64)
    for k in range(shares * header[WAVE_COUNT]):
        taken[k] = 0
    for latch in range(header[LATCH_COUNT]):
        left[latch] = latches[LATCH * latch + NUMBER] + 1


def _take_part(work: int, me: int, shares: int, nap: int) -> None:
    """Do batches, as thread `me` of `shares`, until all are taken.

    To sleep there are, at address `nap`, PyThread_acquire_lock_timed and a lock that is never free.
    """
    header, sleep = at(work, int64), at(nap, int64)
    count, batches = header[WAVE_COUNT], at(header[BATCHES], int64)
    first = wave = spins = 0  # all batches of the waves before the first are taken
    while first < count:
        if wave == count:  # all that is left waits
            acquire_within(sleep[0], sleep[1], MICROSECONDS)
            wave = first
        if not _is_open(header, wave):
            wave, spins = (wave, spins + 1) if wave == first and spins < SPINS else (wave + 1, spins)
            continue
        batch = _take(header, wave, me, shares)
        if batch != NONE:
            _do_items(header, batches[batch], batches[batch + 1])
            _count_down(header, at(header[WAVES], int64)[WAVE * wave + COUNTS])
            wave = first
        elif wave == first:
            first += 1
            wave, spins = first, 0
        else:
            wave += 1


@functools.cache
def take_part() -> int:
    """Return the address of the C function `void(work, me, shares, nap)`, compiled once for all callers."""
    signature = types.void(*[int64] * 4)
    return compile_entry(_take_part, signature, "work.take_part", source_stamp(_take_part))


@inlined
def end(work: int) -> None:
    """Note whether memory ran out."""
    header = at(work, int64)
    header[FAILED] = load(failures_address()) != header[BEFORE]

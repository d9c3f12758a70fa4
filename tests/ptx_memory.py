"""Memory that kernels of the PTX machine work on: what is wrong with an access is found, not suffered.

Note [Stamps]
Two accesses of the same bytes by different threads, one of them a write, are a race unless a barrier lies
between them. Each two bytes keep the stamps of their last accesses: launch, block, barriers that the block
has passed, thread, barriers that the thread's warp has passed. From the bits in which two stamps differ
follows whether anything orders them. Of several readers the last one is kept, and for which warp, block or
launch there were more than one.
"""

import bisect
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

LAUNCH, BLOCK, EPOCH, WARP, LANE = 48, 34, 20, 15, 10
UNIT = 2
_WHOLE = (1 << LAUNCH) - 1

Offsets = npt.NDArray[np.int64]


class MachineError(Exception):
    """A kernel did what hardware forbids, or leaves undefined, or what the machine does not know."""


class Space:
    """Bytes with the record of who wrote and read them: a device's memory, or the shared memory of blocks."""

    def __init__(self, size: int) -> None:
        units = -(-size // 16) * 16 // UNIT
        self.data = np.zeros(units * UNIT, np.uint8)
        self.written = np.zeros(units, np.bool_)
        self.words = {width: self.data.view(f"u{width}") for width in (1, 2, 4, 8)}
        self._forget_accesses()

    def _forget_accesses(self) -> None:
        names = ("writer", "reader", "atomic", "many_in_warp", "many_in_block", "many_in_launch")
        self._stamps = {name: np.zeros(len(self.written), np.int64) for name in names}
        self._atomics = False

    def forget(self, start: int, stop: int) -> None:
        """Make bytes unwritten again."""
        self.written[start // UNIT : -(-stop // UNIT)] = False

    def load(self, offsets: Offsets, width: int, count: int, stamps: Offsets) -> npt.NDArray[Any]:
        """Return for each thread `count` numbers of `width` bytes, in rows."""
        units = _units(offsets, width * count)
        self._check_written(units)
        self._record_read(units, stamps[:, None])
        return self.words[width][_units(offsets, width * count, width)]

    def store(self, offsets: Offsets, values: npt.NDArray[Any], stamps: Offsets) -> None:
        """Store each thread's row of numbers."""
        width, count = values.dtype.itemsize, values.shape[1]
        units = _units(offsets, width * count)
        self._record_write(units, stamps[:, None])
        self.written[units] = True
        self.words[width][_units(offsets, width * count, width)] = values

    def atomic(self, offsets: Offsets, width: int, stamps: Offsets) -> tuple[npt.NDArray[Any], Offsets]:
        """Return the memory that threads change one after the other, and where in it."""
        units = _units(offsets, width)
        self._check_written(units)
        self._atomics = True
        self._race(units, "writer", stamps[:, None])
        self._race(units, "reader", stamps[:, None])
        self._stamps["atomic"][units] = stamps[:, None]
        return self.words[width], offsets // width

    def _check_written(self, units: Offsets) -> None:
        known = self.written[units]
        if not known.all():
            thread, unit = np.argwhere(~known)[0]
            raise Fault(int(thread), f"reads memory that nothing has written, {unit * UNIT} bytes on")

    def _record_read(self, units: Offsets, stamps: Offsets) -> None:
        self._race(units, "writer", stamps)
        if self._atomics:
            self._race(units, "atomic", stamps)
        readers = self._stamps["reader"]
        before = readers[units]
        readers[units] = stamps
        for other in (before, readers[units]):
            apart = other ^ stamps
            if _near(apart).any():
                self._remember_many(units, stamps + np.zeros_like(apart), apart)

    def _remember_many(self, units: Offsets, stamps: Offsets, apart: Offsets) -> None:
        other_block = _near(apart) & (apart >= 1 << BLOCK)
        other_warp = (apart < 1 << EPOCH) & (apart >= 1 << WARP)
        other_lane = (apart < 1 << WARP) & (apart >= 1 << LANE) & (apart & (1 << LANE) - 1 == 0)
        for name, where, shift in (
            ("many_in_launch", other_block, LAUNCH),
            ("many_in_block", other_warp, EPOCH),
            ("many_in_warp", other_lane, 0),
        ):
            self._stamps[name][units[where]] = _group(stamps[where], shift)

    def _record_write(self, units: Offsets, stamps: Offsets) -> None:
        self._race(units, "writer", stamps)
        self._race(units, "reader", stamps)
        if self._atomics:
            self._race(units, "atomic", stamps)
        for name, shift in (("many_in_launch", LAUNCH), ("many_in_block", EPOCH), ("many_in_warp", 0)):
            found = self._stamps[name][units] == _group(stamps, shift)
            if found.any():
                thread, unit = np.argwhere(found)[0]
                raise Fault(int(thread), "writes what several threads read, with no barrier between", unit)
        writers = self._stamps["writer"]
        writers[units] = stamps
        self._race(units, "writer", stamps)

    def _race(self, units: Offsets, name: str, stamps: Offsets) -> None:
        """Refuse an access that nothing orders after the last one of another thread."""
        apart = self._stamps[name][units] ^ stamps
        if not _near(apart).any():
            return
        same_epoch = apart < 1 << EPOCH
        warp = (apart < 1 << WARP) & (((apart >> LANE) == 0) | ((apart & (1 << LANE) - 1) != 0))
        race = _near(apart) & ((apart >= 1 << BLOCK) | (same_epoch & ~warp))
        if race.any():
            thread, unit = np.argwhere(race)[0]
            other = int(self._stamps[name][units[thread, unit]])
            what = {"writer": "wrote", "reader": "read", "atomic": "atomically changed"}[name]
            whom = f"thread {other >> LANE & 1023} of block {other >> BLOCK & (1 << 14) - 1}"
            raise Fault(int(thread), f"races with {whom}, which {what} the same bytes", unit)


class Memory(Space):
    """A device's memory: an address range in which nothing can be read or written but through this."""

    def __init__(self, size: int = 1 << 28) -> None:
        super().__init__(size)
        # no page of it is ever there: what follows a device address on the host crashes, as with a GPU
        self._range = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)
        self.base: int = np.frombuffer(self._range, np.uint8).__array_interface__["data"][0]
        self.size = size
        self.launches = 0
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._next = 0

    def begin_launch(self) -> None:
        """Tell what follows from what was before: launches do not race with each other."""
        self.launches += 1
        if self.launches == 1 << 63 - LAUNCH:
            self.launches = 1
            self._forget_accesses()

    def allocate(self, size: int) -> int:
        """Return the address of new bytes, with a gap behind them."""
        for begin in (self._next, 0):
            start = begin
            for index in range(bisect.bisect_left(self._starts, begin), len(self._starts) + 1):
                limit = self._starts[index] if index < len(self._starts) else self.size
                if start + size + 256 <= limit:
                    return self._take(index, start, size)
                start = -(-(self._stops[index] + 256) // 256) * 256 if index < len(self._stops) else start
        raise MachineError(f"no room for {size} bytes")

    def _take(self, index: int, start: int, size: int) -> int:
        self._starts.insert(index, start)
        self._stops.insert(index, start + size)
        self._next = -(-(start + size + 256) // 256) * 256
        self.forget(start, start + size)
        return self.base + start

    def free(self, address: int) -> None:
        """Give bytes back: from now on, an access to them is an error."""
        index = self._starts.index(address - self.base)
        del self._starts[index], self._stops[index]

    def holds(self, address: int, size: int = 1) -> bool:
        """Whether all these bytes are allocated, in one piece."""
        return not self._outside(np.array([address - self.base]), size).any()

    def bytes_at(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        """Return allocated bytes, for a copy."""
        if not self.holds(address, size):
            raise MachineError(f"{size} bytes at {address:#x} are not allocated")
        return self.data[address - self.base : address - self.base + size]

    def mark_written(self, address: int, size: int) -> None:
        """Remember that a copy wrote these bytes."""
        start = address - self.base
        self.written[start // UNIT : -(-(start + size) // UNIT)] = True

    def put(self, array: npt.NDArray[Any]) -> int:
        """Return the address of a copy of an array."""
        address = self.allocate(array.nbytes)
        self.bytes_at(address, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.mark_written(address, array.nbytes)
        return address

    def get(self, address: int, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a copy of what lies at an address, with the shape and dtype of an array."""
        found = self.bytes_at(address, like.nbytes).copy()
        return found.view(like.dtype).reshape(like.shape)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes, with what is known of who wrote them."""
        self.bytes_at(target, size)[:] = self.bytes_at(source, size)
        start, begin = target - self.base, source - self.base
        units = np.arange(-(-size // UNIT))
        self.written[start // UNIT + units] = self.written[begin // UNIT + units]

    def check(self, offsets: Offsets, size: int) -> None:
        """Refuse accesses outside what is allocated."""
        outside = self._outside(offsets, size)
        if outside.any():
            raise Fault(int(np.flatnonzero(outside)[0]), "is outside all that is allocated")

    def _outside(self, offsets: Offsets, size: int) -> npt.NDArray[np.bool_]:
        index = bisect.bisect_right(self._starts, int(offsets.min())) - 1
        if index >= 0 and int(offsets.max()) + size <= self._stops[index]:
            return np.zeros(len(offsets), np.bool_)
        indices = np.searchsorted(np.array(self._starts), offsets, "right") - 1
        # before the first allocation: any distance before it, as another device's memory may be
        stops = np.array([np.iinfo(np.int64).min, *self._stops])[indices + 1]
        return offsets + size > stops


class Fault(Exception):  # noqa: N818 - not for users: the machine makes a MachineError of it
    """What is wrong with one thread's access: its position among those that make it."""

    def __init__(self, thread: int, what: str, unit: int = 0) -> None:
        super().__init__(what)
        self.thread, self.what, self.unit = thread, what, int(unit)


def _units(offsets: Offsets, size: int, unit: int = UNIT) -> Offsets:
    count = max(1, size // unit)
    return (offsets // unit)[:, None] + np.arange(count)


def _near(apart: Offsets) -> npt.NDArray[np.bool_]:
    """Whether stamps are of the same launch and differ."""
    near: npt.NDArray[np.bool_] = (apart > 0) & (apart <= _WHOLE)
    return near


def _group(stamps: Offsets, shift: int) -> Offsets:
    """Return what several readers share: the launch, the epoch of the block, or that of the warp."""
    return stamps >> shift if shift else stamps & ~np.int64(31 << LANE)

"""What the threads of some blocks are doing: their registers and memory, and who of them runs now."""

from typing import Any

import numpy as np
import numpy.typing as npt
from ptx_arithmetic import Bits
from ptx_memory import BLOCK, EPOCH, LANE, LAUNCH, Fault, MachineError, Memory, Offsets, Space

SPECIAL = (
    *(f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"),
    *("%laneid", "%warpid"),
)
# where shared and local memory lie among generic addresses
SHARED, LOCAL = 1 << 60, 1 << 61
_WARP = 32


class State:
    """The state of all threads of some blocks, which run at once.

    A register holds an array of all threads' bits, or one number that all threads share.
    """

    def __init__(
        self,
        registers: list[Bits],
        memory: Memory,
        blocks: range,
        grid: int,
        threads: int,
        sizes: dict[str, int],
    ) -> None:
        count = len(blocks) * threads
        self.memory, self.blocks, self.threads, self.sizes = memory, blocks, threads, sizes
        self.registers = list(registers)
        self.shared = Space(len(blocks) * sizes["shared"])
        self.local = Space(count * sizes["local"])
        self.thread = np.tile(np.arange(threads), len(blocks))
        self.block = np.repeat(np.arange(len(blocks)), threads)
        self.epochs = np.zeros(count, np.int64)
        self.warp_epochs = np.zeros(count, np.int64)
        self.mask: npt.NDArray[np.bool_] | None = None
        self.active: Offsets = np.arange(count)
        self._everyone = self.active
        self._fill_special(grid)
        self.stamp()

    def _fill_special(self, grid: int) -> None:
        zero, one = np.uint32(0), np.uint32(1)
        block = (self.block + self.blocks.start).astype(np.uint32)
        values: dict[str, Any] = {
            "tid": (self.thread.astype(np.uint32), zero, zero),
            "ntid": (np.uint32(self.threads), one, one),
            "ctaid": (block, zero, zero),
            "nctaid": (np.uint32(grid), one, one),
        }
        flat = [values[name.strip("%")[:-2]]["xyz".index(name[-1])] for name in SPECIAL[:-2]]
        thread = self.thread.astype(np.uint32)
        self.registers[: len(SPECIAL)] = [*flat, thread % np.uint32(_WARP), thread // np.uint32(_WARP)]

    def stamp(self) -> None:
        """Make the stamps of Note [Stamps] anew, after barriers."""
        block = (self.block + self.blocks.start) % (1 << LAUNCH - BLOCK)
        self._stamps = (
            (self.memory.launches << LAUNCH)
            | (block << BLOCK)
            | (self.epochs % (1 << BLOCK - EPOCH) << EPOCH)
            | (self.thread << LANE)
            | self.warp_epochs % (1 << LANE)
        )

    def run_as(self, mask: npt.NDArray[np.bool_] | None) -> None:
        """Let these threads run, None: all."""
        self.mask = mask
        self.active = self._everyone if mask is None else np.flatnonzero(mask)

    def put(self, register: int, value: Bits) -> None:
        """Set a register of the threads that run."""
        if self.mask is not None:
            value = np.where(self.mask, value, self.registers[register])
        self.registers[register] = value

    def scatter(self, register: int, value: Bits) -> None:
        """Set a register, given the values of the threads that run only."""
        if self.mask is not None:
            everyone = np.array(np.broadcast_to(self.registers[register], len(self.thread)))
            everyone[self.active] = value
            value = everyone
        self.registers[register] = value

    def of_active(self, register: int) -> Bits:
        """Return the bits of the threads that run."""
        value = np.broadcast_to(self.registers[register], len(self.thread))
        return value if self.mask is None else value[self.active]

    def where(self, space: str, addresses: Offsets, size: int) -> tuple[Space, Offsets]:
        """Return the memory that addresses of running threads belong to, and offsets in it."""
        misplaced = addresses % size != 0
        if misplaced.any():
            raise Fault(int(np.flatnonzero(misplaced)[0]), f"is not aligned to {size} bytes")
        for name, window in (("local", LOCAL), ("shared", SHARED)):
            if space == "generic" and int(addresses.min()) >= window:
                return self.where(name, addresses - window, size)
        if space in ("shared", "local"):
            return self._own(space, addresses, size)
        offsets = addresses - self.memory.base
        self.memory.check(offsets, size)
        return self.memory, offsets

    def _own(self, space: str, addresses: Offsets, size: int) -> tuple[Space, Offsets]:
        limit = self.sizes[space]
        outside = (addresses < 0) | (addresses + size > limit)
        if outside.any():
            raise Fault(int(np.flatnonzero(outside)[0]), f"is outside the {limit} bytes of {space} memory")
        if space == "shared":
            return self.shared, self.block[self.active] * limit + addresses
        return self.local, self.active * limit + addresses

    def stamps(self) -> Offsets:
        """Return the stamps of the threads that run."""
        return self._stamps if self.mask is None else self._stamps[self.active]

    def warps(self, text: str) -> npt.NDArray[np.bool_]:
        """Return who runs, by warp: of a warp everyone or nobody, for what its threads do together."""
        if self.threads % _WARP:
            raise MachineError(f"{text}: blocks of {self.threads} threads are no whole warps")
        running = np.ones(len(self.thread), np.bool_) if self.mask is None else self.mask
        warps = running.reshape(-1, _WARP)
        if not (warps.all(axis=1) | ~warps.any(axis=1)).all():
            raise MachineError(f"{text}: only some threads of a warp are there")
        return warps

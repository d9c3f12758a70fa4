"""A machine that executes PTX on the host, to check what kernels compute where no GPU is.

    memory = Memory()
    address = memory.put(array)
    Machine(code.ptx).launch(memory, grid=2, arguments=(address, ...))
    result = memory.get(address, like=array)

Note [The machine]
All threads of many blocks run at once, as NumPy arrays of their registers' bits. Threads that took different
branches wait for each other: the code's earliest place where threads are runs next, for those that are there,
so that they meet again behind a branch. At a barrier the threads of a block wait until all have come.
Floating point is IEEE's, in the type of the instruction; `fma` rounds once. What hardware leaves undefined,
and what the machine does not know, is a MachineError that names the instruction, the thread and the address.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ptx_arithmetic import KINDS, UNSIGNED, Bits
from ptx_instructions import decode
from ptx_memory import MachineError, Memory
from ptx_registers import Registers, Step
from ptx_state import State
from ptx_text import SIZES, Function, Instruction, Label, Variable, parse

__all__ = ["Machine", "MachineError", "Memory"]

# blocks that run at once
_TOGETHER = 64
_DONE, _WAITING = 1 << 40, 1 << 30


@dataclass(frozen=True)
class _Piece:
    """A stretch of code without branches, and where threads go from there: see `_end`."""

    steps: tuple[Step, ...]
    leave: "Callable[[State, int], Bits]"


class Machine:
    """One entry of a module, ready to be launched.

    Parameters
    ----------
    ptx
        The module's text.
    name
        The entry; not needed if it is the only one.

    """

    def __init__(self, ptx: str | bytes, name: str | None = None) -> None:
        text = parse(ptx.decode() if isinstance(ptx, bytes) else ptx)
        names = [name] if name else list(text.functions)
        if len(names) != 1:
            raise ValueError(f"which of the entries {names}?")
        self._function = text.functions[names[0]]
        variables = (*text.variables, *self._function.variables)
        self._constants = [v for v in variables if v.space in ("global", "const")]
        self._sizes, self._symbols = _laid_out(variables)
        self._pieces: list[_Piece] = []
        self._decoded_for: Memory | None = None

    def launch(self, memory: Memory, grid: int, arguments: Sequence[int | float], threads: int = 256) -> None:
        """Run all blocks to their end."""
        self._decode(memory)
        memory.begin_launch()
        registers = list(self._registers.initial)
        kinds = self._function.parameters
        for (name, kind), value in zip(kinds.items(), arguments, strict=True):
            registers[self._registers.index[name]] = _argument(kind, value)
        with np.errstate(all="ignore"):
            for first in range(0, grid, _TOGETHER):
                blocks = range(first, min(first + _TOGETHER, grid))
                self._run(State(registers, memory, blocks, grid, threads, self._sizes))

    def _decode(self, memory: Memory) -> None:
        if self._decoded_for is not memory:
            for variable in self._constants:
                content = np.zeros(variable.size, np.uint8)
                content[: len(variable.content)] = list(variable.content)
                self._symbols[variable.name] = memory.put(content)
            self._registers = Registers(self._function, self._symbols)
            self._pieces = _pieces(self._function, self._registers)
            self._decoded_for = memory

    def _run(self, state: State) -> None:
        count = len(state.thread)
        place = 0
        places: npt.NDArray[np.int64] | None = None
        while True:
            if places is not None:
                place = int(places.min())
                if place >= _WAITING:
                    if place >= _DONE:
                        return
                    places = _released(state, places)
                    continue
                mask = places == place
                state.run_as(None if mask.all() else mask)
            piece = self._pieces[place]
            for step in piece.steps:
                step(state)
            target = piece.leave(state, place)
            if state.mask is None:
                places = np.full(count, target, np.int64)
            else:
                places = np.asarray(np.where(state.mask, target, places))


def _released(state: State, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Let blocks whose threads have all come to one barrier go on."""
    blocks = places.reshape(len(state.blocks), state.threads)
    waits = (blocks >= _WAITING) & (blocks < _DONE)
    wrong = waits.any(axis=1) & (blocks != blocks[:, :1]).any(axis=1)
    if wrong.any():
        block = int(np.flatnonzero(wrong)[0])
        first = int(np.flatnonzero(waits[block])[0])
        other = int(np.flatnonzero(blocks[block] != blocks[block, first])[0])
        what = "has ended" if blocks[block, other] >= _DONE else "waits at another one"
        block += state.blocks.start
        raise MachineError(f"in block {block} thread {first} waits at a barrier, and thread {other} {what}")
    waiting = waits.reshape(-1)
    state.epochs[waiting] += 1
    state.stamp()
    return np.where(waiting, places - _WAITING, places)


def _laid_out(variables: Sequence[Variable]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the sizes of shared and local memory, and where each variable lies in them."""
    sizes, symbols = {"shared": 0, "local": 0}, {}
    for variable in variables:
        if variable.space in sizes:
            start = -(-sizes[variable.space] // variable.align) * variable.align
            symbols[variable.name] = start
            sizes[variable.space] = start + variable.size
    return {space: -(-size // 16) * 16 for space, size in sizes.items()}, symbols


def _argument(kind: str, value: int | float) -> Bits:
    unsigned = UNSIGNED[SIZES[kind]]
    if kind in ("f32", "f64"):
        bits: Bits = KINDS[kind](value).view(unsigned)
        return bits
    return unsigned(int(value) % 256 ** SIZES[kind])


def _pieces(function: Function, registers: Registers) -> list[_Piece]:
    """Cut code at its labels, branches and barriers."""
    stretches: list[list[Instruction]] = [[]]
    labels: dict[str, int] = {}
    for item in function.code:
        if isinstance(item, Label):
            if stretches[-1]:
                stretches.append([])
            labels[item.name] = len(stretches) - 1
        else:
            stretches[-1].append(item)
            if _ends(item):
                stretches.append([])
    pieces = []
    for stretch in stretches:
        last = stretch[-1] if stretch and _ends(stretch[-1]) else None
        body = stretch[:-1] if last else stretch
        steps = tuple(_guarded(registers, instruction) for instruction in body)
        pieces.append(_Piece(steps, _end(registers, last, labels)))
    return pieces


def _ends(instruction: Instruction) -> bool:
    name, *modifiers = instruction.opcode
    return name in ("bra", "ret", "exit", "trap", "barrier") or (name == "bar" and "warp" not in modifiers)


def _end(
    registers: Registers, instruction: Instruction | None, labels: dict[str, int]
) -> Callable[[State, int], Bits]:
    """Return the function that tells where threads go: the number of a piece, plus _WAITING, or _DONE."""
    if instruction is None:
        return lambda state, place: place + 1
    name = instruction.opcode[0]
    if name == "trap":
        return _trap
    if name in ("bar", "barrier"):
        if "sync" not in instruction.opcode or instruction.operands != ("0",) or instruction.predicate:
            raise MachineError(f"unknown barrier {instruction.text}")
        return lambda state, place: place + 1 + _WAITING
    target = labels[instruction.operands[0]] if name == "bra" else _DONE
    if instruction.predicate is None:
        return lambda state, place: target
    predicate, negated = registers.operand(instruction.predicate, "pred"), instruction.negated
    return lambda state, place: np.where(state.registers[predicate] ^ negated, target, place + 1)


def _trap(state: State, place: int) -> Bits:
    thread = state.active[0]
    raise MachineError(f"thread {state.thread[thread]} of block {state.block[thread]} meets a trap")


def _guarded(registers: Registers, instruction: Instruction) -> Step:
    """Decode an instruction with its predicate."""
    step = decode(registers, instruction)
    if instruction.predicate is None:
        return step
    predicate, negated = registers.operand(instruction.predicate, "pred"), instruction.negated

    def guarded(state: State) -> None:
        everyone = state.mask
        chosen = np.broadcast_to(state.registers[predicate] ^ negated, len(state.thread))
        mask = chosen if everyone is None else chosen & everyone
        if mask.any():
            state.run_as(None if mask.all() else mask)
            step(state)
            state.run_as(everyone)

    return guarded

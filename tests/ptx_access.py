"""Instructions of PTX that reach memory or other threads, decoded for the machine."""

import re
from typing import Any

import numpy as np
from ptx_arithmetic import KINDS, UNSIGNED, larger, smaller
from ptx_conversions import narrowed, widened
from ptx_memory import Fault, MachineError, Offsets
from ptx_registers import Registers, Step
from ptx_state import State
from ptx_text import SIZES, Instruction, split

_SPACES = ("global", "shared", "local", "const")
# not `nc`: it takes for granted that no thread of the launch writes there
_HINTS = {
    "ca", "cg", "cs", "cv", "lu", "wb", "wt", "volatile", "weak", "relaxed", "gpu", "sys", "cta",
    "L1::no_allocate", "L1::evict_first", "L1::evict_last", "L1::evict_normal", "L1::evict_unchanged",
    *_SPACES,
}  # fmt: skip
_CHANGES: dict[str, Any] = {
    "add": lambda old, b: old + b, "exch": lambda old, b: b, "min": smaller, "max": larger,
    "and": lambda old, b: old & b, "or": lambda old, b: old | b, "xor": lambda old, b: old ^ b,
}  # fmt: skip


def load(registers: Registers, instruction: Instruction) -> Step:
    """Decode ld."""
    space, kind, _ = _access(instruction)
    targets = _vector(instruction.operands[0])
    if "param" in instruction.opcode:
        name = instruction.operands[1].strip("[] ")
        return registers.assign(targets[0], kind, lambda a: a, registers.index[name])
    address, offset = _address(registers, instruction.operands[1])
    places = [registers.operand(target, kind) for target in targets]
    size, width = SIZES[kind], UNSIGNED[SIZES[kind]]

    def step(state: State) -> None:
        addresses = _places(state, address, offset)
        try:
            memory, offsets = state.where(space, addresses, size * len(places))
            rows = memory.load(offsets, size, len(places), state.stamps())
        except Fault as fault:
            raise explained(state, instruction, addresses, fault) from None
        for column, place in enumerate(places):
            bits = np.ascontiguousarray(rows[:, column]).view(width)
            state.scatter(place, widened(bits, kind, registers.kind_of(place)))

    return step


def store(registers: Registers, instruction: Instruction) -> Step:
    """Decode st."""
    space, kind, _ = _access(instruction)
    if "param" in instruction.opcode:
        raise NotImplementedError("a function's parameters")
    address, offset = _address(registers, instruction.operands[0])
    sources = [registers.operand(source, kind) for source in _vector(instruction.operands[1])]

    def step(state: State) -> None:
        addresses = _places(state, address, offset)
        rows = np.stack([narrowed(state.of_active(source), kind) for source in sources], axis=1)
        try:
            memory, offsets = state.where(space, addresses, SIZES[kind] * len(sources))
            memory.store(offsets, rows, state.stamps())
        except Fault as fault:
            raise explained(state, instruction, addresses, fault) from None

    return step


def change(registers: Registers, instruction: Instruction) -> Step:
    """Decode atom and red: threads take turns, in order."""
    returns = instruction.opcode[0] == "atom"
    target, place, *rest = instruction.operands if returns else ("_", *instruction.operands)
    space, kind, (name,) = _access(instruction)
    address, offset = _address(registers, place)
    sources = [registers.operand(source, kind) for source in rest]
    result = None if target == "_" else registers.operand(target, kind)

    def step(state: State) -> None:
        addresses = _places(state, address, offset)
        values = [state.of_active(source).view(KINDS[kind]) for source in sources]
        try:
            memory, offsets = state.where(space, addresses, SIZES[kind])
            words, places = memory.atomic(offsets, SIZES[kind], state.stamps())
        except Fault as fault:
            raise explained(state, instruction, addresses, fault) from None
        old = _take_turns(words.view(KINDS[kind]), places, values, name)
        if result is not None:
            state.scatter(result, old.view(UNSIGNED[SIZES[kind]]))

    return step


def _take_turns(words: Any, places: Offsets, values: list[Any], name: str) -> Any:
    old = np.empty(len(places), words.dtype)
    for turn, place in enumerate(places):
        old[turn] = words[place]
        if name == "cas":
            if old[turn] == values[0][turn]:
                words[place] = values[1][turn]
        else:
            words[place] = _CHANGES[name](old[turn], values[0][turn])
    return old


def shuffle(registers: Registers, instruction: Instruction) -> Step:
    """Decode shfl.sync."""
    target, _, predicate = instruction.operands[0].partition("|")
    result = registers.operand(target, "b32")
    found = registers.operand(predicate, "pred") if predicate else None
    a, b, c = (registers.operand(text, "u32") for text in instruction.operands[1:4])
    mode = instruction.opcode[2]

    def step(state: State) -> None:
        warps = state.warps(instruction.text)
        values, by, clamps = (
            np.broadcast_to(state.registers[r], warps.size).reshape(warps.shape).astype(np.int64)
            for r in (a, b, c)
        )
        lane = np.arange(32)
        segment, clamp = clamps >> 8 & 31, clamps & 31
        last, first = (lane & segment) | (clamp & ~segment), lane & segment
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": first | (by & ~segment)}[mode]
        inside = source >= last if mode == "up" else source <= last
        taken = np.take_along_axis(values, np.where(inside, source, lane), axis=1).astype(np.uint32)
        state.put(result, taken.reshape(-1))
        if found is not None:
            state.put(found, inside.reshape(-1))

    return step


def vote(registers: Registers, instruction: Instruction) -> Step:
    """Decode vote.sync."""
    mode, kind = instruction.opcode[2:]
    result, asked = registers.operand(instruction.operands[0], kind), instruction.operands[1]
    source = registers.operand(asked.lstrip("!"), "pred")

    def step(state: State) -> None:
        shape = state.warps(instruction.text).shape
        values = np.broadcast_to(state.registers[source], shape[0] * 32).reshape(shape) ^ asked.startswith(
            "!"
        )
        ballot = (values.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(axis=1).astype(np.uint32)
        results = {"any": values.any(axis=1), "all": values.all(axis=1), "ballot": ballot}
        state.put(result, np.repeat(results[mode], 32))

    return step


def warp_barrier(registers: Registers, instruction: Instruction) -> Step:
    """Decode bar.warp.sync: what a warp's threads did before it, the others see behind it."""

    def step(state: State) -> None:
        state.warps(instruction.text)
        state.warp_epochs[state.active] += 1
        state.stamp()

    return step


def explained(state: State, instruction: Instruction, addresses: Offsets, fault: Fault) -> MachineError:
    """Return the error that names an instruction, a thread and an address."""
    thread = state.active[fault.thread]
    block = int(state.block[thread]) + state.blocks.start
    return MachineError(
        f"{instruction.text}: the address {int(addresses[fault.thread]):#x} of thread "
        f"{int(state.thread[thread])} of block {block} {fault.what}"
    )


def _access(instruction: Instruction) -> tuple[str, str, list[str]]:
    """Return an access's space, type, and what its opcode says besides."""
    modifiers, kind = instruction.opcode[1:-1], instruction.opcode[-1]
    space = next((m for m in modifiers if m in _SPACES), "generic")
    rest = [m for m in modifiers if m not in _HINTS and m not in ("v2", "v4", "v8", "param")]
    if rest and instruction.opcode[0] in ("ld", "st"):
        raise NotImplementedError(".".join(rest))
    return space, kind, rest


def _vector(text: str) -> tuple[str, ...]:
    return split(text.strip("{} "))


def _address(registers: Registers, text: str) -> tuple[int, int]:
    """Return the register and the offset of `[%rd1+16]`; a variable's name is a constant."""
    match = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
    if not match:
        raise NotImplementedError(f"the address {text}")
    return registers.operand(match[1], "u64"), int(match[2] or 0)


def _places(state: State, register: int, offset: int) -> Offsets:
    places: Offsets = state.of_active(register).astype(np.int64) + offset
    return places

"""Instructions of PTX, decoded into functions of a machine's state."""

from collections.abc import Callable
from typing import Any

import numpy as np
import ptx_access as access
import ptx_arithmetic as arithmetic
from ptx_arithmetic import KINDS, UNSIGNED, Bits, Operation, comparison, typed
from ptx_conversions import conversion
from ptx_memory import MachineError
from ptx_registers import Registers, Step
from ptx_state import LOCAL, SHARED, State
from ptx_text import SIZES, Instruction, split

# spelling without type and rounding -> what it does to numbers of its type
_NUMBERS: dict[str, Operation] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "mul.lo": lambda a, b: a * b, "mul.hi": arithmetic.high_half,
    "div": arithmetic.divide, "rem": arithmetic.remainder,
    "min": arithmetic.smaller, "max": arithmetic.larger,
    "min.NaN": arithmetic.strictly(arithmetic.smaller), "max.NaN": arithmetic.strictly(arithmetic.larger),
    "and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b, "not": lambda a: ~a,
    "neg": lambda a: -a, "abs": np.abs, "sqrt": np.sqrt, "rcp": lambda a: a.dtype.type(1) / a,
    "copysign": lambda a, b: np.copysign(b, a), "fma": arithmetic.fused,
    "mad.lo": lambda a, b, c: a * b + c, "mad.hi": lambda a, b, c: arithmetic.high_half(a, b) + c,
    "mov": lambda a: a, "bfi": arithmetic.inserted, "prmt": arithmetic.permuted,
}  # fmt: skip
# these round: to nearest, or they are not in the table
_ROUNDED = ("div", "sqrt", "rcp", "fma")
# the types of sources that are not the instruction's own, by position
_SHIFTS: dict[str, tuple[Operation, tuple[int, ...]]] = {
    "shl": (arithmetic.shift_left, (1,)), "shr": (arithmetic.shift_right, (1,)),
    "bfe": (arithmetic.extracted, (1, 2)), "bfi": (arithmetic.inserted, (2, 3)),
}  # fmt: skip
_COUNTS: dict[str, Operation] = {
    "popc": lambda a: np.bitwise_count(a).astype(np.uint32), "clz": arithmetic.leading_zeros,
}  # fmt: skip
_TESTS: dict[str, Operation] = {
    "finite": np.isfinite, "infinite": np.isinf, "notanumber": np.isnan, "number": lambda a: ~np.isnan(a),
}  # fmt: skip
_COMBINED: dict[str, Operation] = {
    "and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b,
}  # fmt: skip
_WINDOWS = {"global": 0, "const": 0, "shared": SHARED, "local": LOCAL}


def decode(registers: Registers, instruction: Instruction) -> Step:
    """Return what an instruction does; branches and barriers of blocks belong to the machine."""
    try:
        return _DECODERS.get(instruction.opcode[0], _number)(registers, instruction)
    except (NotImplementedError, KeyError, ValueError, IndexError) as error:
        raise MachineError(f"unknown instruction {instruction.text}: {error!r}") from error


def _number(registers: Registers, instruction: Instruction) -> Step:
    """Decode what takes and returns numbers of one type."""
    name, *modifiers, kind = instruction.opcode
    target, *sources = instruction.operands
    if name in _ROUNDED and kind in ("f32", "f64") and "rn" not in modifiers:
        raise NotImplementedError("not rounded to nearest")
    spelled = ".".join([name, *(m for m in modifiers if m != "rn")])
    function, others = _SHIFTS[name] if name in _SHIFTS else (_NUMBERS[spelled], ())
    places = [registers.operand(s, "u32" if i in others else kind) for i, s in enumerate(sources)]
    return registers.assign(target, kind, _typed(function, kind, others), *places)


def _typed(function: Operation, kind: str, others: tuple[int, ...]) -> Operation:
    if not others:
        return typed(function, kind)
    dtype, unsigned = KINDS[kind], UNSIGNED[SIZES[kind]]
    return lambda *bits: function(*(b if i in others else b.view(dtype) for i, b in enumerate(bits))).view(
        unsigned
    )


def _product(registers: Registers, instruction: Instruction) -> Step:
    """Decode mul and mad, whose result may be wider than their factors."""
    _, *modifiers, kind = instruction.opcode
    if "wide" not in modifiers:
        return _number(registers, instruction)
    target, *sources = instruction.operands
    result = f"{kind[0]}{16 * SIZES[kind]}"
    narrow, wide, unsigned = KINDS[kind], KINDS[result], UNSIGNED[SIZES[result]]
    places = [registers.operand(s, kind if i < 2 else result) for i, s in enumerate(sources)]

    def function(a: Bits, b: Bits, *addend: Bits) -> Bits:
        total = arithmetic.wide_product(a.view(narrow), b.view(narrow))
        for c in addend:
            total = total + c.view(wide)
        return total.view(unsigned)

    return registers.assign(target, result, function, *places)


def _compare(registers: Registers, instruction: Instruction) -> Step:
    """Decode setp, with the predicate it may be combined with."""
    _, name, *combination, kind = instruction.opcode
    target, _, opposite = instruction.operands[0].partition("|")
    a, b = (registers.operand(source, kind) for source in instruction.operands[1:3])
    compare = comparison(name, kind)
    if not combination and not opposite:
        return registers.assign(target, "pred", compare, a, b)
    combine: Operation = _COMBINED[combination[0]] if combination else lambda found, other: found
    other, negated = _predicate(registers, instruction.operands[3] if combination else "0")
    positive = registers.assign(
        target, "pred", lambda x, y, p: combine(compare(x, y), p ^ negated), a, b, other
    )
    if not opposite:
        return positive
    negative = registers.assign(
        opposite, "pred", lambda x, y, p: combine(~compare(x, y), p ^ negated), a, b, other
    )
    return _together(positive, negative)


def _predicate(registers: Registers, text: str) -> tuple[int, bool]:
    return registers.operand(text.lstrip("!"), "pred"), text.startswith("!")


def _select(registers: Registers, instruction: Instruction) -> Step:
    """Decode selp."""
    kind = instruction.opcode[-1]
    target, *sources, condition = instruction.operands
    p, negated = _predicate(registers, condition)
    places = [registers.operand(source, kind) for source in sources]
    return registers.assign(target, kind, lambda a, b, c: np.where(c ^ negated, a, b), *places, p)


def _convert(registers: Registers, instruction: Instruction) -> Step:
    """Decode cvt."""
    _, *modifiers, result, kind = instruction.opcode
    target, *sources = instruction.operands
    places = [registers.operand(source, kind) for source in sources]
    return registers.assign(target, result, conversion(tuple(modifiers), result, kind), *places)


def _move(registers: Registers, instruction: Instruction) -> Step:
    """Decode mov: of a number, or of the parts of a wider one."""
    kind = instruction.opcode[-1]
    target, source = instruction.operands
    if not {target[0], source[0]} & {"{"}:
        return registers.assign(target, kind, lambda a: a, registers.operand(source, kind))
    packs = source[0] == "{"
    names = split((source if packs else target).strip("{} "))
    size = SIZES[kind] // len(names)
    part = f"b{8 * size}"
    wide, narrow = UNSIGNED[SIZES[kind]], UNSIGNED[size]
    if packs:
        places = [registers.operand(name, part) for name in names]
        return registers.assign(target, kind, lambda *parts: _joined(parts, wide, 8 * size), *places)
    place = registers.operand(source, kind)
    steps = [
        registers.assign(name, part, _shifted(wide(8 * size * i), narrow), place)
        for i, name in enumerate(names)
        if name != "_"
    ]
    return _together(*steps)


def _together(*steps: Step) -> Step:
    def step(state: State) -> None:
        for one in steps:
            one(state)

    return step


def _joined(parts: tuple[Bits, ...], wide: Any, width: int) -> Bits:
    total = parts[0].astype(wide)
    for index, part in enumerate(parts[1:], 1):
        total = total | part.astype(wide) << wide(width * index)
    return total


def _shifted(count: Any, narrow: Any) -> Operation:
    return lambda bits: (bits >> count).astype(narrow)


def _address(registers: Registers, instruction: Instruction) -> Step:
    """Decode cvta: generic addresses of shared and local memory lie in windows."""
    to = "to" in instruction.opcode
    kind = instruction.opcode[-1]
    window = np.uint64(_WINDOWS[instruction.opcode[2 if to else 1]])
    target, source = instruction.operands
    shift = -window if to else window
    return registers.assign(target, kind, lambda a: a + shift, registers.operand(source, kind))


def _count(registers: Registers, instruction: Instruction) -> Step:
    """Decode popc and clz."""
    name, kind = instruction.opcode
    target, source = instruction.operands
    return registers.assign(target, "u32", _COUNTS[name], registers.operand(source, kind))


def _test(registers: Registers, instruction: Instruction) -> Step:
    """Decode testp."""
    _, name, kind = instruction.opcode
    target, source = instruction.operands
    test, dtype = _TESTS[name], KINDS[kind]
    return registers.assign(target, "pred", lambda a: test(a.view(dtype)), registers.operand(source, kind))


def _funnel(registers: Registers, instruction: Instruction) -> Step:
    """Decode shf."""
    _, direction, mode, _ = instruction.opcode
    target, *sources = instruction.operands
    places = [registers.operand(source, "u32") for source in sources]
    left, wrap = direction == "l", mode == "wrap"
    return registers.assign(
        target, "b32", lambda a, b, n: arithmetic.funnel(a, b, n, left=left, wrap=wrap), *places
    )


def _nothing(registers: Registers, instruction: Instruction) -> Step:
    """Decode fences: here all memory is written in order."""
    return lambda state: None


_DECODERS: dict[str, Callable[[Registers, Instruction], Step]] = {
    "mul": _product, "mad": _product, "setp": _compare, "selp": _select, "cvt": _convert, "mov": _move,
    "cvta": _address, "popc": _count, "clz": _count, "testp": _test, "shf": _funnel,
    "ld": access.load, "st": access.store, "atom": access.change, "red": access.change,
    "shfl": access.shuffle, "vote": access.vote, "bar": access.warp_barrier,
    "membar": _nothing, "fence": _nothing,
}  # fmt: skip

"""The registers of a PTX function, and steps that fill them."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from ptx_arithmetic import UNSIGNED, Bits, Operation
from ptx_conversions import widened
from ptx_state import SPECIAL, State
from ptx_text import SIZES, Function

Step = Callable[[State], None]


class Registers:
    """The registers of a function by name; numbers in its code have some too."""

    def __init__(self, function: Function, symbols: dict[str, int]) -> None:
        self.symbols = symbols
        kinds = {**dict.fromkeys(SPECIAL, "u32"), **function.registers, **function.parameters}
        self.index = {name: position for position, name in enumerate(kinds)}
        self.initial: list[Bits] = [
            np.bool_(False) if kind == "pred" else UNSIGNED[SIZES[kind]](0) for kind in kinds.values()
        ]

    def operand(self, text: str, kind: str) -> int:
        """Return the number of the register that holds an operand."""
        if text in self.index:
            return self.index[text]
        name = f"{text} as {kind}"
        if name not in self.index:
            self.index[name] = len(self.initial)
            self.initial.append(self._constant(text, kind))
        return self.index[name]

    def _constant(self, text: str, kind: str) -> Bits:
        if kind == "pred":
            return np.bool_(int(text))
        if found := re.fullmatch(r"0[fFdD]([0-9A-Fa-f]+)", text):
            if len(found[1]) != 2 * SIZES[kind]:
                raise NotImplementedError(f"the constant {text} as {kind}")
            return UNSIGNED[SIZES[kind]](int(found[1], 16))
        number = self.symbols[text] if text in self.symbols else int(text.removesuffix("U"), 0)
        return UNSIGNED[SIZES[kind]](number % 256 ** SIZES[kind])

    def kind_of(self, register: int) -> Any:
        """Return the unsigned type of a register."""
        return type(self.initial[register])

    def assign(self, target: str, kind: str, function: Operation, *sources: int) -> Step:
        """Return the step that puts what a function of some registers returns into another."""
        register = self.operand(target, kind)
        width = self.kind_of(register)
        if len(sources) == 2:
            a, b = sources
            if width is np.bool_ or SIZES[kind] == width().itemsize:
                return lambda s: s.put(register, function(s.registers[a], s.registers[b]))

        def step(state: State) -> None:
            bits = function(*(state.registers[source] for source in sources))
            state.put(register, bits if width is np.bool_ else widened(bits, kind, width))

        return step

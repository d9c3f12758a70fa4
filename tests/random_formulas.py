"""Random formulas of the spec language: well-formed, of a wanted extent, mostly finite.

They draw from a `random.Random`. The one that hypothesis gives draws what it wants, and shrinks: of every
choice the first option is the simplest.
"""

import random
from collections.abc import Sequence

from stepspec.generator.ir import Extent

CONSTANTS = ("1", "2", "0.5", "0", "0.1", "3", "1e-8", "0.3", "1e-30", "16777217", "1e3")
RELATIONS = (">", "<", ">=", "<=", "==", "!=")
POWERS = ("2", "3", "0.5", "4", "5", "8")
KINDS = ("norm", "sum", "mean", "max")
# what a value of an extent is made of: the extent itself most often
PARTS = {
    Extent.TENSOR: (Extent.TENSOR,),
    Extent.ROW: (Extent.ROW, Extent.ROW, Extent.TENSOR),
    Extent.COLUMN: (Extent.COLUMN, Extent.COLUMN, Extent.TENSOR),
    Extent.ELEMENT: (*[Extent.ELEMENT] * 6, *[Extent.TENSOR] * 4, Extent.ROW, Extent.COLUMN),
}
# a number that the host cannot compute refuses the whole call: most of these are computed for any x
OF_NUMBERS = ("abs({})", "sqrt(abs({}))", "square({})", "tanh({})", "exp(-abs({}))", "log(1 + abs({}))")
PARTIAL = ("sqrt({})", "exp({})", "log({})")
OF_ARRAYS = (*OF_NUMBERS, "sign({})", "log(1 + square({}))")
OPERATIONS = ("{} + {}", "{} * {}", "{} - {}", "{} / (1 + abs({}))")
OF_TWO = ("maximum({}, {})", "minimum({}, {})", "clip({}, {})")


class FormulaWriter:
    """Writes formulas over the names in scope.

    Attributes
    ----------
    numbers
        Names of what the host knows.
    values
        Names of what it does not, by extent; TENSOR: one number per tensor.
    conditions
        Static conditions.
    extents
        What there are arrays and reductions for.

    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.numbers: list[str] = ["lr", "wd", "t", "rescale_grad", "clip_gradient"]
        self.values: dict[Extent, list[str]] = {extent: [] for extent in PARTS}
        self.values[Extent.ELEMENT] += ["grad", "weight"]
        self.conditions: list[str] = []
        self.extents: tuple[Extent, ...] = tuple(PARTS)

    def one(self, options: Sequence[str]) -> str:
        return options[self.chance.randrange(len(options))]

    def likely(self, share: float) -> bool:
        """Tell whether something shall be, which makes the rule longer."""
        return self.chance.randrange(100) >= 100 * (1 - share)

    def number(self, depth: int = 2) -> str:
        """Return a formula of numbers that the host knows."""
        if depth == 0 or self.likely(0.5):
            return self.one((*CONSTANTS[:5], *self.numbers))
        a, b = self.number(depth - 1), self.number(depth - 1)
        match self.chance.randrange(12):
            case 0 | 1 | 2 | 3:
                return f"({self.one(OPERATIONS).format(a, b)})"
            case 4 | 5 | 6:
                return self.one(OF_NUMBERS).format(a)
            case 7:
                return self.one(OF_TWO).format(a, b)
            case 8:
                return f"clip({a}, -{b}, {self.number(0)})"
            case 9:
                return f"{self.one(('0.9', '0.5', '0.999'))} ** t"
            case 10:
                return f"({a} if {self._condition_of_numbers()} else {b})"
            case _:
                return f"({a} / {b})" if self.likely(0.2) else f"-{a}"

    def exact(self, extent: Extent, depth: int = 2) -> str:
        """Return a formula of this extent; of TENSOR: of a number that the host may know."""
        if extent not in self.extents:
            return self.number(depth)
        if depth == 0 or not self.likely(0.75):
            return self._leaf(extent)
        a, b = self.exact(extent, depth - 1), self.within(extent, depth - 1)
        match self.chance.randrange(16):
            case 0 | 1 | 2 | 3 | 4:
                a, b = (b, a) if self.likely(0.3) else (a, b)
                return f"({self.one(OPERATIONS).format(a, b)})"
            case 5 | 6 | 7:
                return self._function(a, extent)
            case 8 | 9:
                return self.one(OF_TWO).format(a, b)
            case 10:
                if {"low", "high"} <= set(self.numbers):
                    return f"clip({a}, low, high)"
                return f"clip({a}, {b}, {self.within(extent, 0)})"
            case 11:
                return f"({a}) ** {self.one(POWERS)}"
            case 12 | 13:
                return f"({a} if {self._condition(extent)} else {b})"
            case 14:
                return self._leaf(extent) if extent is Extent.ELEMENT else self.reduction(extent, depth - 1)
            case _:
                return f"({a} / {b})" if self.likely(0.3) else f"-{a}"

    def within(self, extent: Extent, depth: int) -> str:
        """Return a formula of this extent or a smaller one."""
        parts = PARTS[extent]
        part = parts[self.chance.randrange(len(parts))]
        if part is Extent.TENSOR and not self.likely(0.6):
            return self.number(min(depth, 1))
        return self.exact(part, depth)

    def reduction(self, per: Extent, depth: int = 1) -> str:
        """Return a reduction to rows, columns or the tensor."""
        operand = Extent.ELEMENT
        shared = self.values[Extent.ROW] + self.values[Extent.COLUMN]
        if per is Extent.TENSOR and shared and self.likely(0.3):
            return f"{self.one(KINDS)}({self.one(shared)})"
        inside = self.exact(operand, depth)
        suffix = "" if per is Extent.TENSOR else f", per={per.word}"
        return f"{self.one(KINDS)}({inside}{suffix})"

    def _leaf(self, extent: Extent) -> str:
        named = self.values[extent]
        if extent is Extent.ELEMENT:
            return "normal()" if self.likely(0.03) else self.one(named)
        if named and not self.likely(0.3):
            return self.one(named)
        if extent is Extent.TENSOR and not self.likely(0.8):
            return self.number(1)
        return self.reduction(extent, 0)

    def _function(self, value: str, extent: Extent) -> str:
        # the host may know a number per tensor, and has no sign
        known = OF_NUMBERS if extent is Extent.TENSOR else OF_ARRAYS
        return self.one(PARTIAL if self.likely(0.1) else known).format(value)

    def _condition(self, extent: Extent) -> str:
        """Return a condition on values of an extent, or on what is known before."""
        if self.likely(0.4):
            return self._condition_of_numbers()
        first = f"{self.within(extent, 1)} {self.one(RELATIONS)} {self.within(extent, 0)}"
        if not self.likely(0.2):
            return first
        return f"{first} {self.one(('and', 'or', 'and not', 'or not'))} {self._condition_of_numbers()}"

    def _condition_of_numbers(self) -> str:
        if self.conditions and not self.likely(0.5):
            return self.one(self.conditions)
        return f"{self.number(1)} {self.one(RELATIONS)} {self.number(0)}"

"""Random update rules of a few lines: most change an array by something that vanishes with the gradient."""

import random
import re

from fragments import spec

from stepspec.generator.spec import Spec

RANGES = {
    "near": "[0, 1)",
    "open": "(0, inf)",
    "signed": "[-1, 1]",
    "bound": "[0, inf)",
    "half": "[0.5, 2]",
    "unit": "(0, 1]",
    "above": "[1, inf)",
}
# some vanish when they are rounded to float32
VALUES = {
    "near": [0.0, 0.5, 0.999999999, 1e-46],
    "open": [1e-46, 1e-40, 1e-20, 1e-8, 0.5, 3.0],
    "signed": [-1.0, 0.0, 1.0, -0.3],
    "bound": [0.0, 0.0, 1e-46, 1e-20, 1e-8, 1.0],
    "half": [0.5, 1.0, 2.0],
    "unit": [1e-46, 1e-20, 0.5, 1.0],
    "above": [1.0, 1.5, 40.0],
}
STATES = {"h": "element", "v": "element", "q": "row", "c": "column", "k": "tensor"}
PER_ROW = ["mean(square(g), per=row)", "norm(g, per=row)", "max(abs(g), per=row)", "sum(g * weight, per=row)"]
PER_COLUMN = ["mean(square(g), per=column)", "max(g, per=column)", "norm(weight, per=column)"]


class RandomRule:
    """Writes the formulas of one rule."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def one(self, *choices: str) -> str:
        return self.chance.choice(choices)

    def number(self, depth: int = 2) -> str:
        """Return a formula of numbers that the host knows."""
        if depth == 0 or self.chance.random() < 0.5:
            return self.one("lr", "wd", "t", *RANGES, "0.5", "1", "1e-8", "1e-30", "clip_gradient")
        a, b = self.number(depth - 1), self.number(depth - 1)
        operator = self.one(*"+-*/")
        return self.one(f"({a} {operator} {b})", f"({a} {operator} {b})", f"sqrt({a})", f"maximum({a}, {b})")

    def element(self, depth: int = 3) -> str:
        """Return a formula of elements."""
        if depth == 0 or self.chance.random() < 0.25:
            return self.one("grad", "g", "weight", "h", "h", "q", "v", self.number(1))
        a, b, c = (self.element(depth - 1) for _ in range(3))
        operator, relation = self.one(*"++-**/"), self.one(">", "<", ">=", "==", "!=")
        function = self.one("sqrt", "abs", "square", "sign", "tanh", "exp", "log")
        return self.one(
            f"({a} {operator} {b})",
            f"({a} {operator} {b})",
            f"{function}({a})",
            f"{function}({a})",
            f"{self.one('maximum', 'minimum', 'clip')}({a}, {b})",
            f"clip({a}, {b}, {c})",
            f"({a}) ** {self.one('2', '3', '0.5')}",
            f"({a} if {b} {relation} {c} else g)",
            self.one(*PER_ROW),
            f"-{a}",
        )

    def vanishing(self) -> str:
        """Return a formula that is mostly 0 where the gradient is."""
        a = self.element(2)
        return self.one("g", "square(g)", "abs(g)", f"g * {a}", f"square(g) / {a}", f"tanh(g) * {a}", a)

    def change(self, name: str) -> str:
        """Return a formula that mostly leaves an array as it is where the gradient is 0."""
        zero, number = self.vanishing(), self.number()
        return self.one(
            f"{name} + {zero}",
            f"{name} - {number} * {zero}",
            f"{name} - {zero} / ({self.element(1)} + {number})",
            f"maximum({name}, {zero})",
            f"({self.element(2)} if {zero} != 0 else {name})",
        )

    def update(self) -> str:
        """Return the statements."""
        lines = [f"g = clip(rescale_grad * grad, clip_gradient){self.one('', ' + wd * weight')}"]
        lines.append(f"weight = {self.change('weight')}")
        text = "\n".join(lines)
        per_row = f"q = {self.one('q + ', 'q - ')}{self.one(*PER_ROW)}"
        states = {"h": f"h = {self.change('h')}", "v": f"v = {self.change('v')}", "q": per_row}
        for name, line in states.items():
            if _mentions(text, name):
                lines.insert(1, line)
                text = "\n".join(lines)
        return text


class WideRule(RandomRule):
    """Writes formulas of every extent: also of columns and the tensor, reduced from all others."""

    def element(self, depth: int = 3) -> str:
        if depth == 0 or self.chance.random() < 0.7:
            return super().element(depth)
        value = self.one("g", "q", "c", "q * q", "abs(c)", "q * c", "weight", super().element(depth - 1))
        kinds = ("norm", "sum", "mean", "max")
        return self.one(
            f"{self.one(*kinds)}({value})",
            f"{self.one(*kinds)}(g * ({value}), per=row)",
            f"{self.one(*kinds)}(g - ({value}), per=column)",
            "c",
            "k",
        )

    def update(self) -> str:
        text = super().update()
        per_column, per_tensor = f"c + {self.one(*PER_COLUMN)}", f"tanh(k + {self.one('norm(g)', 'sum(q)')})"
        for name, value in (("k", per_tensor), ("c", per_column), ("q", f"q + {self.one(*PER_ROW)}")):
            assigned = any(line.startswith(f"{name} =") for line in text.split("\n"))
            if _mentions(text, name) and not assigned:
                text += f"\n{name} = {value}"
        return text


def random_spec(chance: random.Random, kind: type[RandomRule] = RandomRule) -> Spec:
    """Return a random spec called X; SpecError if its rule is none."""
    update = kind(chance).update()
    declared = [
        f'{name}: {{default: {VALUES[name][-2]}, range: "{text}"}}'
        for name, text in RANGES.items()
        if _mentions(update, name)
    ]
    states = [
        f"{name}: {{per: {per}, init: {chance.choice(['0', '0', '0.5', '-1'])}}}"
        for name, per in STATES.items()
        if _mentions(update, name)
    ]
    return spec(update, "\n".join(declared), "\n".join(states))


def _mentions(text: str, name: str) -> bool:
    return bool(re.search(rf"\b{name}\b", text))

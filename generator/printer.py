"""Expressions -> Python text, one short spelling per target; brackets only where the tree needs them."""

from collections.abc import Mapping

from stepspec.generator import language
from stepspec.generator.ir import (
    Binary,
    Call,
    Compare,
    Constant,
    Expr,
    Extent,
    Kind,
    Logic,
    Name,
    Negative,
    Noise,
    Not,
    Power,
    Reduction,
    Select,
    Spread,
    Truth,
    kernel_name,
)
from stepspec.generator.spec import number_text

SELECT, OR, AND, NOT, COMPARE, SUM, PRODUCT, SIGN, POWER, ATOM = range(10)
PRECEDENCE = {"+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT, "or": OR, "and": AND}


class Printer:
    """Prints the language as Python arithmetic; subclasses say how a target spells names and functions."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def text(self, expr: Expr) -> str:
        """Return `expr` as text."""
        return self.operand(expr, SELECT)

    def name(self, name: Name) -> str:
        return name.name

    def constant(self, value: float) -> str:
        return number_text(value)

    def call(self, expr: Call) -> str:
        arguments = ", ".join(self.text(a) for a in expr.arguments)
        return f"{self.use(language.FUNCTIONS[expr.function].spelling[len(expr.arguments)])}({arguments})"

    def power(self, expr: Power) -> tuple[str, int]:
        base, exponent = self.text(expr.base), expr.exponent
        assert isinstance(exponent, Constant), "only constant powers reach an array"
        if exponent.value == 0.5:
            return f"{self.use('sqrt')}({base})", ATOM
        if exponent.value == 2:
            return f"{self.use('square')}({base})", ATOM
        return f"{self.use('power')}({base}, {int(exponent.value)})", ATOM

    def select(self, expr: Select) -> tuple[str, int]:
        condition, then = self.operand(expr.condition, OR), self.operand(expr.then, OR)
        return f"{then} if {condition} else {self.operand(expr.otherwise, SELECT)}", SELECT

    def logic(self, expr: Logic) -> tuple[str, int]:
        level = PRECEDENCE[expr.operator]
        # brackets tell `and` and `or` apart where they meet
        alike = [isinstance(e, Logic) and e.operator == expr.operator for e in (expr.left, expr.right)]
        left, right = (level if same else NOT for same in alike)
        return f"{self.operand(expr.left, left)} {expr.operator} {self.operand(expr.right, right)}", level

    def negation(self, expr: Not) -> tuple[str, int]:
        return f"not {self.operand(expr.value, NOT)}", NOT

    def reduction(self, expr: Reduction) -> str:
        raise AssertionError("a reduction stands alone on its line before kernels are printed")

    def noise(self, stream: int) -> str:
        return f"{language.NOISE}()"

    def spread(self, expr: Spread) -> tuple[str, int]:
        return self._parts(expr.value)

    def use(self, function: str) -> str:
        """Note that the text needs `function` imported."""
        self.used.add(function)
        return function

    def operand(self, expr: Expr, least: int) -> str:
        """Return `expr` as text, in brackets if it binds looser than `least`."""
        text, level = self._parts(expr)
        return text if level >= least else f"({text})"

    def _parts(self, expr: Expr) -> tuple[str, int]:
        match expr:
            case Constant(value=value):
                return self.constant(value), ATOM if value >= 0 else SIGN
            case Truth(value=truth):
                return str(truth), ATOM
            case Name():
                return self.name(expr), ATOM
            case Negative(value=value):
                return f"-{self.operand(value, SIGN)}", SIGN
            case Binary(operator=operator, left=left, right=right):
                level = PRECEDENCE[operator]
                return f"{self.operand(left, level)} {operator} {self.operand(right, level + 1)}", level
            case Compare(operator=operator, left=left, right=right):
                return f"{self.operand(left, SUM)} {operator} {self.operand(right, SUM)}", COMPARE
            case Power():
                return self.power(expr)
            case Logic():
                return self.logic(expr)
            case Not():
                return self.negation(expr)
            case Select():
                return self.select(expr)
            case Call():
                return self.call(expr), ATOM if expr.function != "square" or expr.stage else POWER
            case Noise(stream=stream):
                return self.noise(stream), ATOM
            case Reduction():
                return self.reduction(expr), ATOM
            case Spread():
                return self.spread(expr)


class HostPrinter(Printer):
    """Python floats, computed once per call: hyperparameters belong to `self`, lr, wd and t to `p`."""

    def name(self, name: Name) -> str:
        match name.kind:
            case Kind.HYPERPARAMETER | Kind.STATIC:
                return f"self.{name.name}"
            case Kind.HOST:
                return f"p.{name.name}"
            case _:
                return name.name

    def call(self, expr: Call) -> str:
        return _host_call(self, expr)

    def power(self, expr: Power) -> tuple[str, int]:
        return _host_power(self, expr)


class ReferencePrinter(Printer):
    """NumPy arrays, for the readable `step`.

    The host's numbers are Python floats, which NumPy rounds to the array's dtype where they meet one. A
    number from a reduction is a float64 scalar, which would promote the array: its rounding is written out.
    """

    def call(self, expr: Call) -> str:
        if not expr.stage:
            return _host_call(self, expr)
        if expr.extent.is_scalar:
            return super().call(expr)
        first, *others = expr.arguments
        # a clipped array gives its dtype to bounds that the host knows
        plain = expr.function == "clip" and not first.extent.is_scalar
        texts = [self.text(a) if plain and not a.stage else self._beside_array(a) for a in others]
        arguments = ", ".join([self._beside_array(first), *texts])
        return f"{self.use(language.FUNCTIONS[expr.function].spelling[len(expr.arguments)])}({arguments})"

    def power(self, expr: Power) -> tuple[str, int]:
        return super().power(expr) if expr.stage else _host_power(self, expr)

    def select(self, expr: Select) -> tuple[str, int]:
        if expr.extent.is_scalar and expr.stage:
            condition, then = self.operand(expr.condition, OR), self.float64(expr.then, OR)
            return f"{then} if {condition} else {self.float64(expr.otherwise, SELECT)}", SELECT
        alike = expr.then.extent == expr.otherwise.extent
        if expr.condition.extent.is_scalar and (expr.extent.is_scalar or alike):
            return super().select(expr)
        # whichever is chosen, the value has the shape and dtype of both together
        condition = self.text(expr.condition)
        branches = f"{self._beside_array(expr.then)}, {self._beside_array(expr.otherwise)}"
        return f"{self.use('where')}({condition}, {branches})", ATOM

    def logic(self, expr: Logic) -> tuple[str, int]:
        if expr.extent.is_scalar:
            return super().logic(expr)
        sign = "&" if expr.operator == "and" else "|"
        return f"({self.text(expr.left)}) {sign} ({self.text(expr.right)})", COMPARE

    def negation(self, expr: Not) -> tuple[str, int]:
        return super().negation(expr) if expr.extent.is_scalar else (f"~({self.text(expr.value)})", ATOM)

    def reduction(self, expr: Reduction) -> str:
        return f"{self.use(language.REDUCTIONS[expr.function][expr.per.word])}({self.text(expr.value)})"

    def noise(self, stream: int) -> str:
        return f"p.{language.NOISE}({stream if stream > 1 else ''})"

    def spread(self, expr: Spread) -> tuple[str, int]:
        # what is summed has the shape of rows or columns: some array must lend it
        per = {Extent.ROW: "row_sum", Extent.COLUMN: "column_sum"}.get(expr.over)
        return self.spread_like(expr, f"{self.use(per)}(weight)" if per else "weight"), ATOM

    def float64(self, expr: Expr, least: int = SELECT) -> str:
        """Return the text of a number of a tensor: what the host knows becomes a float64 scalar as others."""
        return self.operand(expr, least) if expr.stage else f"np.float64({self.text(expr)})"

    def spread_like(self, expr: Spread, like: str) -> str:
        """Return the text of a value repeated over the array called `like`."""
        return f"{self.use('spread')}({self.text(expr.value)}, {like})"

    def _parts(self, expr: Expr) -> tuple[str, int]:
        match expr:
            case Binary() | Compare() if not expr.extent.is_scalar:
                level = PRECEDENCE.get(expr.operator, COMPARE)
                inner, right = (SUM, SUM) if level == COMPARE else (level, level + 1)
                return (
                    f"{self._rounded(expr.left, inner)} {expr.operator} {self._rounded(expr.right, right)}",
                    level,
                )
            case _:
                return super()._parts(expr)

    def _rounded(self, expr: Expr, least: int) -> str:
        if expr.extent.is_scalar and expr.stage:
            return f"dtype({self.text(expr)})"
        return self.operand(expr, least)

    def _beside_array(self, expr: Expr) -> str:
        return f"dtype({self.text(expr)})" if expr.extent.is_scalar else self.text(expr)


class KernelPrinter(Printer):
    """Numbers of the compute dtype inside a loop over elements `i`, and rows `r` if there are rows.

    Args:
        subscripts: array parameter -> its subscript where the text stands.
    """

    def __init__(self, subscripts: Mapping[str, str]) -> None:
        super().__init__()
        self.subscripts = subscripts

    def name(self, name: Name) -> str:
        stored = name.version == 0 or name.kind is Kind.LOCAL
        if stored and name.name in self.subscripts:
            return f"{name.name}{self.subscripts[name.name]}"
        return kernel_name(name)

    def constant(self, value: float) -> str:
        raise AssertionError("constants are scalars of the kernel")


class ScalarPrinter(Printer):
    """Numbers of one tensor in float64, between two passes."""

    def name(self, name: Name) -> str:
        return kernel_name(name)

    def constant(self, value: float) -> str:
        return repr(value)


def needs_math(expr: Expr) -> bool:
    """Tell whether the host text of `expr` needs the module `math`."""
    match expr:
        case Call(function=function):
            inside = language.FUNCTIONS[function].host.startswith("math.")
        case Power(exponent=Constant(value=0.5)):
            inside = True
        case _:
            inside = False
    return inside or any(needs_math(child) for child in expr.children)


def _host_call(printer: Printer, expr: Call) -> str:
    match expr:
        case Call(function="square", arguments=(value,)):
            return _host_power(printer, Power(value, Constant(2.0)))[0]
        case Call(function="clip", arguments=(value, *bounds)):
            low, high = bounds if len(bounds) == 2 else (Negative(bounds[0]), bounds[0])
            return f"min(max({printer.text(value)}, {printer.text(low)}), {printer.text(high)})"
        case _:
            arguments = ", ".join(printer.text(a) for a in expr.arguments)
            return f"{language.FUNCTIONS[expr.function].host}({arguments})"


def _host_power(printer: Printer, expr: Power) -> tuple[str, int]:
    if expr.exponent == Constant(0.5):
        return f"math.sqrt({printer.text(expr.base)})", ATOM
    base, exponent = printer.operand(expr.base, ATOM), printer.operand(expr.exponent, SIGN)
    plain = isinstance(expr.base, Name | Constant) and isinstance(expr.exponent, Name | Constant)
    return f"{base}**{exponent}" if plain else f"{base} ** {exponent}", POWER

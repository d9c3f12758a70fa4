"""What is known of a value before it is computed: bounds, whether it can be zero, whether it is a number.

Note [Signs]
Every law here survives rounding, in float32 and float64 alike. Bounds are -1, 0, 1 or infinite: no rounding
moves a value across them. `nonzero` means that the value is not zero in the compute dtype either; a product
of two such values may be, as it can underflow. Overflow alone is left out: `finite` is a value of which no
operand overflows. Zeros have no sign.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

from stepspec.generator.ir import (
    Binary,
    Call,
    Compare,
    Constant,
    Expr,
    Name,
    Negative,
    Noise,
    Power,
    Reduction,
    Select,
    Spread,
)

BOUNDS = (-math.inf, -1.0, 0.0, 1.0, math.inf)
# the smallest normal number of float32
TINY = 2.0**-126


@dataclass(frozen=True)
class Value:
    """What is known of a value; see Note [Signs].

    Attributes:
        low: a number that it is not below.
        high: a number that it is not above.
        nonzero: whether it is never zero, not even rounded to the compute dtype.
        finite: whether it is neither infinite nor NaN.
        same: the stored array that it equals element by element, if any.
    """

    low: float = -math.inf
    high: float = math.inf
    nonzero: bool = False
    finite: bool = True
    same: str = ""

    @classmethod
    def between(cls, low: float, high: float) -> Self:
        """Return what is known of every number from `low` to `high`, rounded or not."""
        return cls(_bound_below(low), _bound_above(high), low >= TINY or high <= -TINY)

    @property
    def is_zero(self) -> bool:
        return self.low == self.high == 0 and self.finite

    @property
    def is_large(self) -> bool:
        """Whether its magnitude is at least 1."""
        return self.low >= 1 or self.high <= -1


# what is known of names, by name and version
Known: TypeAlias = Mapping[tuple[str, int], Value]

ZERO = Value(0.0, 0.0)
ANY = Value()
UNKNOWN = Value(finite=False)


def value_of(expr: Expr, known: Known) -> Value:
    """Return what is known of `expr`, given what is known of the names in it wherever reductions reach."""

    def of(inner: Expr) -> Value:
        return value_of(inner, known)

    match expr:
        case Constant(value=v):
            return Value.between(v, v)
        case Name(name=name, version=version):
            return known.get((name, version), UNKNOWN)
        case Negative(value=v):
            return _negative(of(v))
        case Binary(operator="+", left=left, right=right):
            return _sum(of(left), of(right))
        case Binary(operator="-", left=left, right=right):
            return _sum(of(left), _negative(of(right)))
        case Binary(operator="*", left=left, right=right):
            return _product(of(left), of(right))
        case Binary(left=left, right=right):
            # the host refuses to divide by zero
            return _quotient(of(left), of(right), divisible=expr.stage == 0)
        case Power(base=base, exponent=exponent):
            return _power(of(base), exponent, of(exponent))
        case Call(function=function, arguments=arguments):
            return FUNCTIONS[function](*(of(a) for a in arguments))
        case Reduction(function=function, value=v):
            return _reduction(function, of(v))
        case Select(condition=condition, then=then, otherwise=otherwise):
            return _select(condition, of(then), of(otherwise), known)
        case Spread(value=v):
            return of(v)
        case Noise():
            return ANY
        case _:
            return UNKNOWN


def _bound_below(value: float) -> float:
    return max(bound for bound in BOUNDS if bound <= value)


def _bound_above(value: float) -> float:
    return min(bound for bound in BOUNDS if bound >= value)


def _negative(a: Value) -> Value:
    return Value(-a.high, -a.low, a.nonzero, a.finite)


def _sum(a: Value, b: Value) -> Value:
    if a.is_zero or b.is_zero:
        return b if a.is_zero else a
    # what has one sign does not cancel
    one_sign = (a.low >= 0 and b.low >= 0) or (a.high <= 0 and b.high <= 0)
    nonzero = one_sign and (a.nonzero or b.nonzero)
    return Value(_bound_below(a.low + b.low), _bound_above(a.high + b.high), nonzero, a.finite and b.finite)


def _product(a: Value, b: Value) -> Value:
    finite = a.finite and b.finite
    if a.is_zero or b.is_zero:
        return ZERO if finite else UNKNOWN
    ends = [x * y if x and y else 0.0 for x in (a.low, a.high) for y in (b.low, b.high)]
    nonzero = a.nonzero and b.nonzero and (a.is_large or b.is_large)
    return Value(min(ends), max(ends), nonzero, finite)


def _quotient(a: Value, b: Value, divisible: bool) -> Value:
    # the sign of a quotient is that of the product, and zero stays zero
    return _same_sign(_product(a, b)) if b.nonzero or divisible else UNKNOWN


def _same_sign(a: Value) -> Value:
    """Return what is known of a value with the sign of `a`, zero where `a` is."""
    return Value(0.0 if a.low >= 0 else -math.inf, 0.0 if a.high <= 0 else math.inf, False, a.finite)


def _power(base: Value, exponent: Expr, n: Value) -> Value:
    match exponent:
        case Constant(value=0.5):
            return _sqrt(base)
        case Constant(value=number) if number > 0 and number % 2 == 0:
            return _square(base)
        case Constant(value=number) if number > 0 and number % 2 == 1:
            return _product(base, _square(base))
        case _:  # of numbers that the host knows
            return Value(0.0 if base.low >= 0 else -math.inf, finite=base.finite and n.finite)


def _square(a: Value) -> Value:
    if a.is_zero:
        return ZERO
    within = 1.0 if a.low >= -1 and a.high <= 1 else math.inf
    return Value(1.0 if a.is_large else 0.0, within, a.is_large, a.finite)


def _sqrt(a: Value) -> Value:
    low, high = max(a.low, 0.0), max(a.high, 0.0)
    return Value(low, high, a.nonzero and a.low >= 0, a.finite and a.low >= 0)


def _abs(a: Value) -> Value:
    if a.low >= 0:
        return a
    return Value(1.0 if a.is_large else 0.0, max(-a.low, a.high), a.nonzero, a.finite)


def _sign(a: Value) -> Value:
    return Value(max(a.low, -1.0), min(a.high, 1.0), a.nonzero, a.finite)


def _exp(a: Value) -> Value:
    return Value(0.0, finite=a.finite)


def _log(a: Value) -> Value:
    return Value(finite=a.finite and a.nonzero and a.low >= 0)


def _maximum(a: Value, b: Value) -> Value:
    if a.finite and b.finite and (a.low >= b.high or b.low >= a.high):
        return a if a.low >= b.high else b
    positive = any(v.nonzero and v.low >= 0 for v in (a, b))
    nonzero = positive or (a.nonzero and b.nonzero)
    return Value(max(a.low, b.low), max(a.high, b.high), nonzero, a.finite and b.finite)


def _minimum(a: Value, b: Value) -> Value:
    if a.finite and b.finite and (a.high <= b.low or b.high <= a.low):
        return a if a.high <= b.low else b
    return _negative(_maximum(_negative(a), _negative(b)))


def _clip(x: Value, *bounds: Value) -> Value:
    low, high = bounds if len(bounds) == 2 else (_negative(bounds[0]), bounds[0])
    # a bound may be infinite: then it bounds nothing
    raised = x if x.low >= low.high else _maximum(x, low) if low.finite else _either(x, low)
    if raised.high <= high.low:
        return raised
    return _minimum(raised, high) if high.finite else _either(raised, high)


def _either(a: Value, b: Value) -> Value:
    same = a.same if a.same == b.same else ""
    nonzero, finite = a.nonzero and b.nonzero, a.finite and b.finite
    return Value(min(a.low, b.low), max(a.high, b.high), nonzero, finite, same)


def _select(condition: Expr, then: Value, otherwise: Value, known: Known) -> Value:
    match condition:
        case Compare(operator=operator, left=left, right=right) if (
            value_of(left, known).is_zero and value_of(right, known).is_zero
        ):
            return then if operator in ("==", "<=", ">=") else otherwise
        case _:
            return _either(then, otherwise)


def _reduction(function: str, a: Value) -> Value:
    if function == "norm":
        return ZERO if a.is_zero else Value(0.0, finite=a.finite)
    return replace(a, same="") if function == "max" else _same_sign(a)


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "sqrt": _sqrt,
    "abs": _abs,
    "sign": _sign,
    "square": _square,
    "exp": _exp,
    "log": _log,
    "tanh": _same_sign,
    "minimum": _minimum,
    "maximum": _maximum,
    "clip": _clip,
}

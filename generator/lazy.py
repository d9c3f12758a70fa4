"""Is a row without gradient left as it is? A proof per variant, by putting `grad = 0` into the rule.

Values are tracked as signs and as "the stored value itself". The proof holds for finite states and up to the
sign of zero; a condition such as `wd == 0` or `epsilon > 0` is part of the verdict if it is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from stepspec.generator.ir import (
    Binary,
    Call,
    Constant,
    Expr,
    Extent,
    Name,
    Negative,
    Power,
    Reduction,
    Select,
    Spread,
    Statements,
    names,
)
from stepspec.generator.passes import outputs
from stepspec.generator.spec import Spec

MOST_CONDITIONS = 2


@dataclass(frozen=True)
class Value:
    """What is known of a value: the lowest and the highest it can be, and the stored array it equals, if any.

    `above` says that it is greater than `low`, never equal.
    """

    low: float
    high: float
    above: bool = False
    same: str = ""

    @property
    def is_zero(self) -> bool:
        return self.low == self.high == 0

    @property
    def is_positive(self) -> bool:
        return self.low > 0 or (self.low == 0 and self.above)


INFINITE = float("inf")
ZERO = Value(0.0, 0.0)
POSITIVE = Value(0.0, INFINITE, above=True)
NOT_NEGATIVE = Value(0.0, INFINITE)
ANY = Value(-INFINITE, INFINITE)


def lazy_conditions(spec: Spec, statements: Statements) -> tuple[str, ...] | None:
    """Return the conditions under which leaving out rows without gradient is exact, or None.

    Empty if no condition is needed; else texts such as `wd == 0` and `epsilon > 0`, the fewest.
    """
    facts = _facts(spec, _never_negative(spec, statements))
    used = {n.name for s in statements for n in names(s.value)}
    free = [
        n
        for n, value in facts.items()
        if n in used and value == NOT_NEGATIVE and n not in outputs(statements)
    ]
    assumptions = [(n, ZERO, f"{n} == 0") for n in free] + [(n, POSITIVE, f"{n} > 0") for n in free]
    for count in range(MOST_CONDITIONS + 1):
        for chosen in combinations(assumptions, count):
            assumed = {name: value for name, value, _ in chosen}
            if len(assumed) == count and _unchanged(statements, facts | {"grad": ZERO} | assumed):
                return tuple(text for _, _, text in chosen)
    return None


def _facts(spec: Spec, never_negative: frozenset[str]) -> dict[str, Value]:
    """Return what is known of every name before the step, for any gradient."""
    facts = {"grad": ANY, "weight": Value(-INFINITE, INFINITE, same="weight"), "rescale_grad": ANY}
    facts |= {"lr": POSITIVE, "t": POSITIVE, "clip_gradient": POSITIVE, "wd": NOT_NEGATIVE}
    for h in spec.own_hyperparameters:
        facts[h.name] = Value(h.range.low, h.range.high, above=not h.range.low_closed)
        if h.range.low == 0 and h.range.low_closed:
            facts[h.name] = NOT_NEGATIVE
    for s in spec.states:
        facts[s.name] = Value(0.0 if s.name in never_negative else -INFINITE, INFINITE, same=s.name)
    return facts


def _never_negative(spec: Spec, statements: Statements) -> frozenset[str]:
    """Return the states that start at 0 or above and stay there whatever the gradients are, by induction."""
    states = frozenset(s.name for s in spec.states if isinstance(s.init, float) and s.init >= 0)
    while True:
        values = _evaluate(statements, _facts(spec, states))
        kept = frozenset(s for s in states if s not in values or values[s].low >= 0)
        if kept == states:
            return kept
        states = kept


def _unchanged(statements: Statements, facts: Mapping[str, Value]) -> bool:
    return all(value.same == name for name, value in _evaluate(statements, facts).items())


def _evaluate(statements: Statements, facts: Mapping[str, Value]) -> dict[str, Value]:
    """Return what is known of each output behind the statements."""
    known: dict[tuple[str, int], Value] = {(name, 0): value for name, value in facts.items()}
    for s in statements:
        known[s.target.name, s.target.version] = _value(s.value, known)
    return {name: known[n.name, n.version] for name, n in outputs(statements).items()}


def _value(expr: Expr, known: Mapping[tuple[str, int], Value]) -> Value:
    def of(inner: Expr) -> Value:
        return _value(inner, known)

    match expr:
        case Constant(value=v):
            return Value(v, v)
        case Name(name=name, version=version):
            return known.get((name, version), ANY)
        case Negative(value=v):
            return ZERO if of(v).is_zero else ANY
        case Binary(operator=operator, left=left, right=right):
            return _arithmetic(operator, of(left), of(right))
        case Power(base=base, exponent=Constant(value=n)) if n % 2 == 0:
            return ZERO if of(base).is_zero else NOT_NEGATIVE
        case Power(base=base) if of(base).low >= 0:
            return ZERO if of(base).is_zero else NOT_NEGATIVE
        case Call(function=function, arguments=arguments):
            return _function(function, [of(a) for a in arguments])
        # a tensor's norm or mean is not zero because one row's gradient is
        case Reduction(function=function, per=Extent.ROW, value=v) if of(v).is_zero:
            return ZERO
        case Reduction(function="norm"):
            return NOT_NEGATIVE
        case Reduction(value=v) if of(v).low >= 0:
            return NOT_NEGATIVE
        case Select(then=then, otherwise=otherwise):
            a, b = of(then), of(otherwise)
            both = a.same if a.same == b.same else ""
            return Value(min(a.low, b.low), max(a.high, b.high), same=both)
        case Spread(value=v):
            return Value(of(v).low, of(v).high, of(v).above)
        case _:
            return ANY


def _arithmetic(operator: str, a: Value, b: Value) -> Value:
    if operator in "+-" and b.is_zero:
        return a
    if operator == "+" and a.is_zero:
        return b
    if operator in "*/" and a.is_zero:
        return ZERO if operator == "*" or b.is_positive or b.high < 0 else ANY
    if operator == "*" and b.is_zero:
        return ZERO
    if operator == "+" and a.low >= 0 and b.low >= 0:
        return POSITIVE if a.is_positive or b.is_positive else NOT_NEGATIVE
    if operator in "*/" and a.low >= 0 and b.low >= 0:
        return POSITIVE if a.is_positive and b.is_positive and operator == "*" else NOT_NEGATIVE
    if operator == "-" and a.low >= b.high:
        return NOT_NEGATIVE
    return ANY


def _function(function: str, arguments: list[Value]) -> Value:
    zero = arguments[0].is_zero
    if function in ("sqrt", "abs", "square"):
        positive = POSITIVE if arguments[0].is_positive else NOT_NEGATIVE
        return ZERO if zero else positive
    if function in ("sign", "tanh") or (function == "clip" and len(arguments) == 2):
        return ZERO if zero else (NOT_NEGATIVE if arguments[0].low >= 0 else ANY)
    if function == "exp":
        return NOT_NEGATIVE
    if function in ("maximum", "minimum"):
        a, b = arguments
        if zero and b.is_zero:
            return ZERO
        low = max(a.low, b.low) if function == "maximum" else min(a.low, b.low)
        return NOT_NEGATIVE if low >= 0 else ANY
    return ANY

"""Compute what is known at compile time, and carry constants through locals."""

import math
from dataclasses import replace

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
    Not,
    Power,
    Reduction,
    Select,
    Spread,
    Statements,
    Truth,
    is_condition,
    rebuild,
)

# numbers beyond e**709 are no floats
LARGEST_LOG = 709


def fold(statements: Statements) -> Statements:
    """Return the statements with what is known computed, and constants carried through locals.

    Numbers are computed in float64. Terms multiplied by a known zero vanish, and so do added zeros; the laws
    hold for finite values and up to the sign of zero. Example: `0 * mom + lr * g` becomes `lr * g`.
    """
    current: dict[tuple[str, int], Expr] = {}
    done = []

    def resolve(expr: Expr) -> Expr:
        if isinstance(expr, Name):
            known = current.get((expr.name, expr.version))
            return expr if known is None else replace(known, span=expr.span)
        return _fold_node(keep_extent(expr, rebuild(expr, resolve)))

    for statement in statements:
        value, target = resolve(statement.value), statement.target
        if target.kind is Kind.LOCAL:
            target = replace(target, varies=value.extent, known=value.stage)
        else:
            value = spread_over(value, target.extent)
            target = replace(target, known=max(1, value.stage))
        current[target.name, target.version] = target
        if target.kind is Kind.LOCAL and isinstance(value, Constant):
            current[target.name, target.version] = value
        else:
            done.append(replace(statement, target=target, value=value))
    return tuple(done)


def _fold_node(expr: Expr) -> Expr:
    match expr:
        case Negative(value=Constant(value=v)):
            return Constant(-v if v else 0.0, span=expr.span)
        case Negative(value=Negative(value=inner)):
            return inner
        case Binary():
            return _fold_binary(expr)
        case Power(base=base, exponent=Constant(value=1.0)):
            return base
        case Power(base=Constant(value=base), exponent=Constant(value=exponent)) if (
            base > 0 and abs(exponent) <= 64 and abs(exponent * math.log(base)) < LARGEST_LOG
        ):
            return Constant(base**exponent, span=expr.span)
        case Call(function="sqrt" | "abs" | "square" | "tanh", arguments=(Constant(value=0.0),)):
            return Constant(0.0, span=expr.span)
        case Call(function="clip", arguments=(Constant(value=0.0), _)):
            return Constant(0.0, span=expr.span)
        case Call(function="sign", arguments=(value,)) if value.stage == 0:
            return _sign_of_number(value)
        case Reduction(value=Spread(value=Constant(value=0.0)) | Constant(value=0.0)):
            return Constant(0.0, span=expr.span)
        case Compare(operator=operator, left=Constant(value=a), right=Constant(value=b)):
            return Truth(_compare(operator, a, b), span=expr.span)
        case Not(value=Truth(value=v)):
            return Truth(not v, span=expr.span)
        case (
            Logic(operator=operator, left=Truth(value=v), right=other)
            | Logic(operator=operator, left=other, right=Truth(value=v))
        ):
            decided = v is (operator == "or")
            return Truth(v, span=expr.span) if decided else other
        case Select(condition=Truth(value=v), then=then, otherwise=otherwise):
            return then if v else otherwise
        case Spread(value=value, over=over) if value.extent is over:
            return value
        case _:
            return expr


def spread_over(value: Expr, extent: Extent) -> Expr:
    """Return `value` with the extent of the array that it becomes; numbers of a tensor stay as they are."""
    return value if extent.is_scalar or value.extent is extent else Spread(value, extent)


def keep_extent(old: Expr, new: Expr) -> Expr:
    """Keep the extent of what is reduced where less became of it: the count of elements still matters."""
    if isinstance(old, Reduction) and isinstance(new, Reduction) and new.value.extent is not old.value.extent:
        return replace(new, value=Spread(new.value, old.value.extent))
    return new


def _sign_of_number(value: Expr) -> Expr:
    """Return the sign of what the host knows as a choice: only arrays have a function for it."""
    zero, one = Constant(0.0), Constant(1.0)
    below = _fold_node(Select(_fold_node(Compare("<", value, zero)), Constant(-1.0), zero))
    return _fold_node(Select(_fold_node(Compare(">", value, zero)), one, below))


def _fold_binary(expr: Binary) -> Expr:
    left, right, span = expr.left, expr.right, expr.span
    match expr.operator, left, right:
        case operator, Constant(value=a), Constant(value=b) if math.isfinite(c := _compute(operator, a, b)):
            return Constant(c, span=span)
        case "*", Constant(value=0.0), _:
            return left
        case "*", _, Constant(value=0.0):
            return right
        case "/", Constant(value=0.0), _:
            return left
        case ("+", Constant(value=0.0), kept) | ("*", Constant(value=1.0), kept):
            return kept
        case ("+" | "-", kept, Constant(value=0.0)) | ("*" | "/", kept, Constant(value=1.0)):
            return kept
        case "-", Constant(value=0.0), kept:
            return Negative(kept, span=span)
        case _:
            return expr


def _compute(operator: str, a: float, b: float) -> float:
    """Return `a operator b`; nan if b is a divisor of 0."""
    quotient = a / b if b else math.nan
    return {"+": a + b, "-": a - b, "*": a * b, "/": quotient}[operator]


def _compare(operator: str, a: float, b: float) -> bool:
    outcomes = {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}
    return outcomes[operator]


def condition_or_number(expr: Expr) -> Expr:
    """Return `expr` as a number: a condition becomes 1 where it holds, else 0."""
    return Select(expr, Constant(1.0), Constant(0.0), span=expr.span) if is_condition(expr) else expr

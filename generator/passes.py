"""From a rule with static choices to straight-line statements: small functions IR -> IR, one law each.

statements = prune(fold(specialise(rule, choice)))
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import TypeAlias

from stepspec.generator import language
from stepspec.generator.errors import Problem, SpecError
from stepspec.generator.ir import (
    Assign,
    Binary,
    Call,
    Compare,
    Constant,
    Expr,
    Extent,
    If,
    Kind,
    Logic,
    Name,
    Negative,
    Not,
    Power,
    Reduction,
    Select,
    Spread,
    Statement,
    Truth,
    is_condition,
    names,
    rebuild,
    walk,
)
from stepspec.generator.parse import Rule

# numbers beyond e**709 are no floats
LARGEST_LOG = 709

Choice: TypeAlias = Mapping[Expr, bool]
Statements: TypeAlias = tuple[Assign, ...]


def static_atoms(rule: Rule) -> tuple[Expr, ...]:
    """Return the conditions that distinguish variants, in the order of their first use.

    Example: `momentum > 0` where `mom` is stored `when: momentum > 0`, and a tensor flag `adapt`.
    """
    compared = {node for c in rule.presence.values() for node in walk(c) if isinstance(node, Compare)}
    found: dict[Expr, None] = {}

    def collect(expr: Expr) -> None:
        static_name = isinstance(expr, Name) and expr.kind is Kind.STATIC and expr.name != "ndim"
        if static_name or expr in compared or (isinstance(expr, Compare) and _is_ndim(expr)):
            found.setdefault(expr)
            return
        for child in expr.children:
            collect(child)

    for condition in rule.presence.values():
        collect(condition)
    for expr in _expressions(rule.statements):
        collect(expr)
    return tuple(found)


def variants(rule: Rule) -> tuple[Choice, ...]:
    """Return every combination of outcomes of the rule's static atoms, all false first."""
    atoms = static_atoms(rule)
    if 2 ** len(atoms) > language.MOST_VARIANTS:
        span = atoms[-1].span
        count = f"{len(atoms)} static conditions make {2 ** len(atoms)} variants"
        message = f"{count}, more than {language.MOST_VARIANTS}"
        raise SpecError(rule.spec.source, [Problem(span, message, "make two rules of it")])
    return tuple(
        dict(zip(atoms, truths, strict=True)) for truths in product((False, True), repeat=len(atoms))
    )


def specialise(rule: Rule, choice: Choice) -> Statements:
    """Return the rule's statements for one outcome of its static conditions, every name versioned.

    A state that is not stored becomes a local starting at its initial value, and a hyperparameter that the
    outcome pins to one number (`momentum > 0` is false and the range starts at 0) becomes that number.
    """
    absent = {name for name, condition in rule.presence.items() if not _holds(condition, choice)}
    current: dict[str, Expr] = dict(_pinned(rule, choice))
    versions: dict[str, int] = {}
    done: list[Assign] = []
    for state in rule.spec.states:
        if state.name in absent and isinstance(state.init, str):
            # a name of its own, which stays what it is when weight is assigned
            target = Name(state.name, Kind.LOCAL, Extent.ELEMENT, 1, 1)
            weight = Name("weight", Kind.ARRAY, Extent.ELEMENT, 1)
            current[state.name], versions[state.name] = target, 1
            done.append(Assign(target, weight, f"{state.name} = weight", state.span))
        elif state.name in absent:
            current[state.name] = Constant(float(state.init))
    per = {s.name: s.per for s in rule.spec.states if s.name not in absent} | {"weight": Extent.ELEMENT}

    def resolve(expr: Expr) -> Expr:
        if expr in choice:
            return Truth(choice[expr], span=expr.span)
        if isinstance(expr, Name):
            return replace(current[expr.name], span=expr.span) if expr.name in current else expr
        return _keep_extent(expr, rebuild(expr, resolve))

    def run(statements: Iterable[Statement]) -> None:
        for statement in statements:
            if isinstance(statement, If):
                run(statement.then if _holds(statement.condition, choice) else statement.otherwise)
                continue
            name, value = statement.target.name, resolve(statement.value)
            versions[name] = versions.get(name, 0) + 1
            if name in per:
                kind = Kind.ARRAY if name == "weight" else Kind.STATE
                if not per[name].is_scalar and value.extent is not per[name]:
                    value = Spread(value, per[name])
                target = Name(name, kind, per[name], max(1, value.stage), versions[name])
            else:
                target = Name(name, Kind.LOCAL, value.extent, value.stage, versions[name])
            current[name] = target
            done.append(replace(statement, target=target, value=value))

    run(rule.statements)
    return tuple(done)


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
        return _fold_node(_keep_extent(expr, rebuild(expr, resolve)))

    for statement in statements:
        value, target = resolve(statement.value), statement.target
        if target.kind is Kind.LOCAL:
            target = replace(target, varies=value.extent, known=value.stage)
        else:
            target = replace(target, known=max(1, value.stage))
        current[target.name, target.version] = target
        if target.kind is Kind.LOCAL and isinstance(value, Constant):
            current[target.name, target.version] = value
        else:
            done.append(replace(statement, target=target, value=value))
    return tuple(done)


def outputs(statements: Statements) -> dict[str, Name]:
    """Return the last value of `weight` and of each stored state that the statements assign."""
    return {s.target.name: s.target for s in statements if s.target.kind in (Kind.ARRAY, Kind.STATE)}


def prune(statements: Statements) -> Statements:
    """Return the statements without those that no output needs."""
    needed = {(n.name, n.version) for n in outputs(statements).values()}
    kept = []
    for statement in reversed(statements):
        if (statement.target.name, statement.target.version) in needed:
            needed |= {(n.name, n.version) for n in names(statement.value)}
            kept.append(statement)
    return tuple(reversed(kept))


def straight_line(rule: Rule, choice: Choice) -> Statements:
    """Return the statements of one variant, in the form that the reference prints and kernels start from."""
    return prune(fold(specialise(rule, choice)))


def _expressions(statements: Iterable[Statement]) -> Iterable[Expr]:
    for statement in statements:
        if isinstance(statement, If):
            yield statement.condition
            yield from _expressions((*statement.then, *statement.otherwise))
        else:
            yield statement.value


def _is_ndim(condition: Compare) -> bool:
    return isinstance(condition.left, Name) and condition.left.name == "ndim"


def _holds(condition: Expr, choice: Choice) -> bool:
    if condition in choice:
        return choice[condition]
    match condition:
        case Truth(value=value):
            return value
        case Not(value=value):
            return not _holds(value, choice)
        case Logic(operator="and", left=left, right=right):
            return _holds(left, choice) and _holds(right, choice)
        case Logic(left=left, right=right):
            return _holds(left, choice) or _holds(right, choice)
        case _:
            raise AssertionError(f"not a static condition: {condition}")


def _pinned(rule: Rule, choice: Choice) -> Iterable[tuple[str, Constant]]:
    """Yield hyperparameters that an outcome pins to one number, by the condition and the range."""
    ranges = {h.name: h.range for h in rule.spec.own_hyperparameters}
    for atom, holds in choice.items():
        match atom:
            case Compare(operator=operator, left=Name(name=name), right=Constant(value=bound)) if (
                name in ranges
            ):
                lowest = ranges[name].low == bound and ranges[name].low_closed
                highest = ranges[name].high == bound and ranges[name].high_closed
                pinned = {
                    ">": not holds and lowest,
                    "<=": holds and lowest,
                    "<": not holds and highest,
                    ">=": holds and highest,
                    "==": holds,
                    "!=": not holds,
                }
                if pinned[operator]:
                    yield name, Constant(bound)
            case _:
                continue


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


def _keep_extent(old: Expr, new: Expr) -> Expr:
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

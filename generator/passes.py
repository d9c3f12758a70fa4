"""From a rule with static choices to straight-line statements: small functions IR -> IR, one law each.

statements = prune(fold(specialise(rule, choice)))
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import TypeAlias

from stepspec.generator import language
from stepspec.generator.errors import Problem, SpecError
from stepspec.generator.fold import fold, keep_extent, spread_over
from stepspec.generator.ir import (
    Assign,
    Compare,
    Constant,
    Expr,
    Extent,
    If,
    Kind,
    Logic,
    Name,
    Not,
    Statement,
    Statements,
    Truth,
    names,
    rebuild,
    walk,
)
from stepspec.generator.parse import Rule

Choice: TypeAlias = Mapping[Expr, bool]


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
        return keep_extent(expr, rebuild(expr, resolve))

    def run(statements: Iterable[Statement]) -> None:
        for statement in statements:
            if isinstance(statement, If):
                run(statement.then if _holds(statement.condition, choice) else statement.otherwise)
                continue
            name, value = statement.target.name, resolve(statement.value)
            versions[name] = versions.get(name, 0) + 1
            if name in per:
                kind = Kind.ARRAY if name == "weight" else Kind.STATE
                value = spread_over(value, per[name])
                target = Name(name, kind, per[name], max(1, value.stage), versions[name])
            else:
                target = Name(name, Kind.LOCAL, value.extent, value.stage, versions[name])
            current[name] = target
            done.append(replace(statement, target=target, value=value))

    run(rule.statements)
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
    ranges = {h.name: h.values for h in rule.spec.own_hyperparameters}
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

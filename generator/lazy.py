"""Is a row without gradient left as it is? A proof per variant, by putting `grad = 0` into the rule.

It holds for finite weights and states that the rule itself has made, as long as nothing overflows, and up to
the sign of zero (Note [Signs]). A verdict names the conditions it needs, such as `wd == 0` and `epsilon > 0`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import combinations

from stepspec.generator.analysis import Variant
from stepspec.generator.ir import (
    Compare,
    Constant,
    Expr,
    Extent,
    Kind,
    Logic,
    Not,
    Select,
    Spread,
    Statements,
    Truth,
    names,
)
from stepspec.generator.parse import Rule
from stepspec.generator.passes import Choice, outputs
from stepspec.generator.signs import ANY, ZERO, Value, value_of
from stepspec.generator.spec import Spec

MOST_CONDITIONS = 3
FROM_HOST = (Kind.HYPERPARAMETER, Kind.HOST)
NEVER, ALWAYS = Truth(False), Truth(True)


def lazy_is_exact(rule: Rule, variants: Sequence[Variant]) -> Expr:
    """Return the condition under which leaving out rows without gradient is exact, for all variants together.

    Example: `not momentum > 0 and wd == 0` for SGD.
    """
    verdicts = lazy_verdicts(rule, variants)
    return _decide([(v.choice, verdict) for v, verdict in zip(variants, verdicts, strict=True)])


def lazy_verdicts(rule: Rule, variants: Sequence[Variant]) -> tuple[Expr, ...]:
    """Return for each variant the condition under which leaving out rows without gradient is exact.

    A number is compared with 0 as it is; where it must be positive, rounded to the compute dtype, which is
    written as a value spread over the elements. A variant that reads or writes anything whole is never exact.
    """
    kept = _never_negative(rule.spec, [v.statements for v in variants])
    facts = _facts(rule.spec, kept)
    return tuple(_verdict(rule, variant, facts) for variant in variants)


def _verdict(rule: Rule, variant: Variant, facts: Mapping[str, Value]) -> Expr:
    statements = variant.statements
    # grad = 0 is known of one row, and not of a whole tensor or column
    if any(kind in ("REDUCE", "UPDATE_COLUMNS") for (kind, _), _ in variant.program.stages):
        return NEVER
    decided = {name.name for atom in variant.choice for name in names(atom)}
    assumptions = list(_assumptions(rule.spec, statements, facts, decided))
    for count in range(MOST_CONDITIONS + 1):
        for chosen in combinations(assumptions, count):
            assumed = {name: value for name, value, _ in chosen}
            if len(assumed) == count and _unchanged(statements, {**facts, "grad": ZERO, **assumed}):
                conditions = [condition for _, _, condition in chosen]
                return reduce(lambda a, b: Logic("and", a, b), conditions) if conditions else ALWAYS
    return NEVER


def _assumptions(
    spec: Spec, statements: Statements, facts: Mapping[str, Value], decided: set[str]
) -> Iterable[tuple[str, Value, Expr]]:
    """Yield what may be assumed of numbers that the host knows: name, what is known then, the condition."""
    used = {n.name: n for s in statements for n in names(s.value) if n.kind in FROM_HOST}
    free = [used[name] for name in facts if name in used]
    may_vanish = {"wd", *(h.name for h in spec.own_hyperparameters if 0 in h.range)} - decided
    for name in free:
        if name.name in may_vanish:
            yield name.name, ZERO, Compare("==", name, Constant(0.0))
    for name in free:
        known = facts[name.name]
        if known.low >= 0 and not known.nonzero:
            rounded = Spread(name, Extent.ELEMENT)
            yield name.name, replace(known, nonzero=True), Compare(">", rounded, Constant(0.0))


def _facts(spec: Spec, never_negative: frozenset[str]) -> dict[str, Value]:
    """Return what is known of every name before the step, for any gradient."""
    facts = {"grad": ANY, "weight": Value(same="weight"), "rescale_grad": ANY}
    facts |= {"lr": Value(0.0), "wd": Value(0.0), "t": Value.between(1.0, math.inf)}
    facts["clip_gradient"] = Value(0.0, finite=False)
    for h in spec.own_hyperparameters:
        finite = math.inf not in h.values and -math.inf not in h.values
        facts[h.name] = replace(Value.between(h.values.low, h.values.high), finite=finite)
    for s in spec.states:
        facts[s.name] = Value(0.0 if s.name in never_negative else -math.inf, same=s.name)
    return facts


def _never_negative(spec: Spec, variants: Iterable[Statements]) -> frozenset[str]:
    """Return the states that start at 0 or above and stay there, by induction.

    Whatever the gradients are, and whichever variant each step takes: a switch can be changed between two.
    """
    variants = tuple(variants)
    states = frozenset(s.name for s in spec.states if isinstance(s.init, float) and s.init >= 0)
    while True:
        facts = _facts(spec, states)
        after = [_after(statements, facts) for statements in variants]
        kept = frozenset(s for s in states if all(values[s].low >= 0 for values in after if s in values))
        if kept == states:
            return kept
        states = kept


def _unchanged(statements: Statements, facts: Mapping[str, Value]) -> bool:
    return all(value.same == name for name, value in _after(statements, facts).items())


def _after(statements: Statements, facts: Mapping[str, Value]) -> dict[str, Value]:
    """Return what is known of each output behind the statements."""
    known = {(name, 0): value for name, value in facts.items()}
    for s in statements:
        known[s.target.name, s.target.version] = value_of(s.value, known)
    return {name: known[n.name, n.version] for name, n in outputs(statements).items()}


def _decide(cases: Sequence[tuple[Choice, Expr]]) -> Expr:
    """Return one condition that is in every case what the case says; its atoms are asked one by one."""
    (first, verdict), *others = cases
    if all(other == verdict for _, other in others):
        return verdict
    atom = next(a for a in first if len({choice[a] for choice, _ in cases}) > 1)
    yes = _decide([case for case in cases if case[0][atom]])
    no = _decide([case for case in cases if not case[0][atom]])
    match yes, no:
        case _ if yes == no:
            return yes
        case Truth(value=v), _:
            return _joined("or" if v else "and", atom if v else Not(atom), no)
        case _, Truth(value=v):
            return _joined("or" if v else "and", Not(atom) if v else atom, yes)
        case _:
            return Select(atom, yes, no)


def _joined(operator: str, condition: Expr, rest: Expr) -> Expr:
    return condition if isinstance(rest, Truth) else Logic(operator, condition, rest)

"""Give names to what kernels take from outside: noise, versions, reductions, scalars."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from stepspec.generator.fold import condition_or_number
from stepspec.generator.free_names import FreeNames
from stepspec.generator.ir import (
    Assign,
    Binary,
    Call,
    Compare,
    Constant,
    Expr,
    Extent,
    Kind,
    Name,
    Negative,
    Noise,
    Power,
    Reduction,
    Select,
    Spread,
    Statements,
    is_condition,
    names,
    rebuild,
)
from stepspec.generator.language import draw_name
from stepspec.generator.passes import outputs
from stepspec.generator.spec import number_text

EMPTY: Mapping[str, Expr] = MappingProxyType({})
LONGEST_NAME = 40


NUMBER_WORDS = {0.0: "zero", 1.0: "one", 2.0: "two", 3.0: "three", 4.0: "four", 0.5: "half"}


OPERATOR_WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "over"}


COMPARISON_WORDS = {
    "<": "below",
    "<=": "at_most",
    ">": "above",
    ">=": "at_least",
    "==": "equals",
    "!=": "differs_from",
}


@dataclass(frozen=True)
class Hoisted:
    """Statements in which every scalar operand of an array operation is a name; what the host computes."""

    statements: Statements
    host: dict[str, Expr]


def name_noise(statements: Statements) -> Statements:
    """Return the statements with every draw as an array that kernels read.

    Example: `weight - normal() - normal()` becomes `weight - normal - normal_2`.
    """

    def resolve(expr: Expr) -> Expr:
        if not isinstance(expr, Noise):
            return rebuild(expr, resolve)
        return Name(draw_name(expr.stream), Kind.NOISE, expr.extent, expr.stage, span=expr.span)

    return tuple(replace(statement, value=resolve(statement.value)) for statement in statements)


def name_versions(statements: Statements) -> Statements:
    """Return the statements with a name of its own for every value but the stored, and the last of a state.

    Example: `g = grad`, `g = 2 * g` becomes `g = grad`, `g_2 = 2 * g`.
    """
    free = FreeNames(n.name for s in statements for n in (s.target, *names(s.value)))
    last = set(outputs(statements).values())
    renamed: dict[Name, Name] = {}

    def resolve(expr: Expr) -> Expr:
        return renamed.get(expr, expr) if isinstance(expr, Name) else rebuild(expr, resolve)

    done = []
    for statement in statements:
        value, old = resolve(statement.value), statement.target
        new = old
        if old.kind is Kind.LOCAL and old.version > 1:
            new = replace(old, name=free.fresh(f"{old.name}_{old.version}"), version=1)
        elif old.kind is not Kind.LOCAL and old not in last:
            # no state any more, but a number between two of its values
            name = free.fresh(f"new_{old.name}_{old.version}")
            new = replace(old, name=name, kind=Kind.LOCAL, version=1)
        renamed[old] = new
        done.append(replace(statement, target=new, value=value))
    return tuple(done)


def name_reductions(statements: Statements) -> Statements:
    """Return the statements with every reduction alone on its line.

    Example: `h += mean(g, per=row)` becomes `row_mean_g = mean(g, per=row)` and `h = h + row_mean_g`.
    """
    done: list[Assign] = []
    taken = FreeNames(n.name for s in statements for n in (s.target, *names(s.value)))

    def extract(expr: Expr) -> Expr:
        expr = rebuild(expr, extract)
        if not isinstance(expr, Reduction):
            return expr
        name = Name(taken.fresh(_short(expr)), Kind.LOCAL, expr.extent, expr.stage, 1, span=expr.span)
        done.append(Assign(name, expr, text, expr.span))
        return name

    for statement in statements:
        value, text = statement.value, statement.text
        if isinstance(value, Reduction) and statement.target.kind is Kind.LOCAL:
            value = rebuild(value, extract)
        else:
            value = extract(value)
        done.append(replace(statement, value=value))
    return tuple(done)


def hoist(statements: Statements, host: Mapping[str, Expr] = EMPTY, taken: Iterable[str] = ()) -> Hoisted:
    """Return the statements with every scalar part of an array formula replaced by a name.

    What the host knows becomes a scalar that it computes once per call; what only a reduction tells becomes a
    statement of its own. Examples: `(1 - beta1) * g` becomes `one_minus_beta1 * g`; `lr * trust * g` becomes
    `lr_times_trust = lr * trust` and `lr_times_trust * g`. Conditions become 1 or 0.

    `host` and `taken` are as in `lower`.
    """
    return _Hoister(statements, host, taken).run(statements)


class _Hoister:
    def __init__(self, statements: Statements, host: Mapping[str, Expr], taken: Iterable[str]) -> None:
        self._free = FreeNames(n.name for s in statements for n in (s.target, *names(s.value)))
        self._others = host
        self._taken = frozenset(taken)
        self._host: dict[str, Expr] = {}
        self._named: dict[Expr, str] = {}
        self._locals: dict[tuple[str, int], Expr] = {}
        self._done: list[Assign] = []
        self._device: dict[Expr, Name] = {}

    def run(self, statements: Statements) -> Hoisted:
        for statement in statements:
            target, value = statement.target, statement.value
            if target.stage == 0 and target.kind is Kind.LOCAL:
                self._locals[target.name, target.version] = self._inline(value)
            elif isinstance(value, Reduction):
                self._done.append(replace(statement, value=rebuild(value, self._array)))
            elif value.extent.is_scalar:
                self._done.append(replace(statement, value=self._scalar(value)))
            else:
                self._done.append(replace(statement, value=self._array(value)))
        return Hoisted(tuple(self._done), self._host)

    def _inline(self, expr: Expr) -> Expr:
        if isinstance(expr, Name):
            return self._locals.get((expr.name, expr.version), expr)
        return rebuild(expr, self._inline)

    def _scalar(self, expr: Expr) -> Expr:
        """Rewrite a formula of numbers per tensor: its host parts get names, plain numbers stay."""
        if isinstance(expr, Constant):
            return expr
        if expr.stage == 0 and not is_condition(expr):
            return self._host_name(expr)
        if isinstance(expr, Power):
            return replace(expr, base=self._scalar(expr.base))
        return rebuild(expr, self._scalar)

    def _array(self, expr: Expr) -> Expr:
        """Rewrite a formula of arrays: its scalar parts get names."""
        if isinstance(expr, Power) and not expr.extent.is_scalar:
            return replace(expr, base=self._array(expr.base))
        if not expr.extent.is_scalar:
            return rebuild(expr, self._array)
        if is_condition(expr):
            flag = self._array(condition_or_number(expr))
            return Compare("!=", flag, self._host_name(Constant(0.0)), span=expr.span)
        if expr.stage == 0:
            return self._host_name(expr)
        if isinstance(expr, Name):
            return expr
        if expr not in self._device:
            word = self._free.fresh(_short(expr), self._others.__contains__)
            name = Name(word, Kind.LOCAL, Extent.TENSOR, expr.stage, 1, span=expr.span)
            self._done.append(Assign(name, self._scalar(expr), "", expr.span))
            self._device[expr] = name
        return self._device[expr]

    def _host_name(self, expr: Expr) -> Name:
        if isinstance(expr, Name) and expr.kind is not Kind.LOCAL:
            return expr
        inlined = self._inline(expr)
        if inlined not in self._named:
            self._named[inlined] = self._new_host_name(expr, inlined)
            self._host[self._named[inlined]] = inlined
        return Name(self._named[inlined], Kind.HOST, Extent.TENSOR, 0, span=expr.span)

    def _new_host_name(self, expr: Expr, value: Expr) -> str:
        """Return a name for `value`, the same as in other variants if they have it."""

        def unfit(name: str) -> bool:
            return name in self._host or name in self._taken or self._others.get(name, value) != value

        if isinstance(expr, Name) and not unfit(expr.name):
            return expr.name
        return self._free.fresh(_short(expr), unfit)


def words(expr: Expr) -> str:
    """Return a name that spells `expr`, such as one_minus_beta1."""
    say: Callable[[Expr], str] = words
    match expr:
        case Constant(value=value) if value < 0:
            return f"minus_{say(Constant(-value))}"
        case Constant(value=value):
            return NUMBER_WORDS.get(value) or "number_" + re.sub(r"\W", "_", number_text(value))
        case Name(name=name):
            return name
        case Negative(value=value):
            return f"minus_{say(value)}"
        case Binary(operator=operator, left=left, right=right):
            return f"{say(left)}_{OPERATOR_WORDS[operator]}_{say(right)}"
        case Power(base=base, exponent=exponent):
            return f"{say(base)}_pow_{say(exponent)}"
        case Call(function=function, arguments=arguments):
            return "_".join([function, *map(say, arguments)])
        case Reduction(function=function, per=per, value=value):
            return f"{'' if per is Extent.TENSOR else per.word + '_'}{function}_{say(value)}"
        case Spread(value=value):
            return say(value)
        case Compare(operator=operator, left=left, right=right):
            return f"{say(left)}_{COMPARISON_WORDS[operator]}_{say(right)}"
        case Select(condition=condition, then=Constant(), otherwise=Constant()):
            return say(condition)
        case _:
            return "scalar"


def _short(expr: Expr) -> str:
    word = words(expr)
    return word if len(word) <= LONGEST_NAME else "scalar"

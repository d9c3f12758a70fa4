"""Formulas with one operator, number, name, function or statement changed, on Python's own trees."""

import ast
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from stepspec.generator import language
from stepspec.generator.ir import Assign, Extent, If, Statement
from stepspec.generator.parse import Rule

Tree = TypeVar("Tree", bound=ast.AST)
Block: TypeAlias = Sequence[ast.stmt]

KINDS: tuple[tuple[type[ast.AST], ...], ...] = (
    (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow),
    (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq),
    (ast.And, ast.Or),
)


@dataclass(frozen=True)
class Names:
    """The names that a formula may use, in groups whose members take each other's place."""

    groups: Mapping[str, object]

    @classmethod
    def at_the_start(cls, rule: Rule) -> "Names":
        """Return what a rule's first statement may use: numbers, switches, and arrays by their extent."""
        spec = rule.spec
        switches = [*(h.name for h in spec.own_hyperparameters if h.is_switch), *(f.name for f in spec.flags)]
        numbers = [h.name for h in spec.own_hyperparameters if not h.is_switch]
        return cls(
            {
                **dict.fromkeys((*language.HOST_NAMES, *numbers), "number"),
                **dict.fromkeys(switches, "switch"),
                **dict.fromkeys(language.ARRAY_NAMES, Extent.ELEMENT),
                **{state.name: group(state.per) for state in spec.states},
            }
        )

    def others(self, name: str) -> Iterator[str]:
        """Return what may take the place of `name`."""
        kind = self.groups.get(name)
        return (other for other, its in self.groups.items() if other != name and its == kind)

    def after(self, statement: ast.stmt, extents: Mapping[str, Extent]) -> "Names":
        """Return what the next statement may use."""
        assigned = {name: group(extents[name]) for name in written(statement)}
        return Names({**assigned, **self.groups})


def group(extent: Extent) -> object:
    return "number" if extent.is_scalar else extent


def rule_mutants(rule: Rule) -> Iterator[tuple[str, str]]:
    """Return what is changed and the whole text, for each mutant of the statements of a rule."""
    extents = dict(_extents(rule.statements))
    body = ast.parse(rule.spec.update.text).body
    for change, mutated in _blocks(body, Names.at_the_start(rule), extents):
        yield change, text_of(*mutated)


def condition_mutants(condition: str, rule: Rule) -> Iterator[str]:
    """Return the mutants of a condition of the spec's data."""
    tree = ast.parse(condition, mode="eval").body
    return (text_of(mutated) for mutated in _trees(tree, Names.at_the_start(rule)))


def number_mutants(value: float) -> Iterator[float]:
    """Return other numbers than `value`: 0, 1, and what is near it, its double, half and opposite."""
    near = (0, 1, 2 * value, value / 2, value + 1, value - 1, -value)
    return iter(dict.fromkeys(number for number in near if number != value))


def text_of(*trees: ast.AST) -> str:
    return "\n".join(ast.unparse(tree) for tree in trees)


def written(statement: ast.stmt) -> set[str]:
    return {n.id for n in _names(statement) if isinstance(n.ctx, ast.Store)}


# ---- statements


def _blocks(body: Block, names: Names, extents: Mapping[str, Extent]) -> Iterator[tuple[str, Block]]:
    for i, statement in enumerate(body):
        before, after = body[:i], body[i + 1 :]
        if len(body) > 1:
            yield f"without {_line(statement)}", [*before, *after]
        if after and _depend(statement, after[0]):
            yield f"late {_line(statement)}", [*before, after[0], statement, *after[1:]]
        for change, new in _statements(statement, names, extents):
            yield change, [*before, *new, *after]
        names = names.after(statement, extents)


def _statements(
    statement: ast.stmt, names: Names, extents: Mapping[str, Extent]
) -> Iterator[tuple[str, Block]]:
    match statement:
        case ast.If(test=test, body=body, orelse=orelse):
            yield f"always {text_of(test)}", body
            yield f"never {text_of(test)}", orelse
            for other in _trees(test, names):
                yield f"if {text_of(other)}", [_with(statement, test=other)]
            for branch, block in (("body", body), ("orelse", orelse)):
                for change, mutated in _blocks(block, names, extents):
                    yield change, [_with(statement, **{branch: mutated})]
        case ast.AugAssign(target=target, value=value):
            plain: ast.stmt = ast.Assign([target], value, lineno=statement.lineno)
            for new in (plain, *_trees(statement, names)):
                yield text_of(new), [new]
        case _:
            for new in _trees(statement, names):
                yield text_of(new), [new]


def _depend(one: ast.stmt, two: ast.stmt) -> bool:
    """Tell whether the order of two statements matters."""
    return any(written(a) & {n.id for n in _names(b)} for a, b in ((one, two), (two, one)))


def _line(statement: ast.stmt) -> str:
    return text_of(statement).partition("\n")[0]


def _names(tree: ast.AST) -> Iterator[ast.Name]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Name))


def _extents(statements: Iterable[Statement]) -> Iterator[tuple[str, Extent]]:
    for statement in statements:
        match statement:
            case Assign(target=target):
                yield target.name, target.extent
            case If(then=then, otherwise=otherwise):
                yield from _extents((*then, *otherwise))


# ---- trees


def _trees(tree: Tree, names: Names) -> Iterator[Tree]:
    """Return copies of `tree`, each with one node replaced."""
    yield from _replacements(tree, names)
    for field, value in ast.iter_fields(tree):
        match value:
            case ast.AST() if field != "func":
                for new in _trees(value, names):
                    yield _with(tree, **{field: new})
            case [*items]:
                for i, item in enumerate(items):
                    for new in _trees(item, names):
                        yield _with(tree, **{field: [*items[:i], new, *items[i + 1 :]]})


def _replacements(node: ast.AST, names: Names) -> Iterator[Any]:
    """Return what may stand in the place of `node`: trees of the same type, such as other expressions."""
    match node:
        case ast.operator() | ast.cmpop() | ast.boolop():
            kind = next(kind for kind in KINDS if type(node) in kind)
            yield from (other() for other in kind if other is not type(node))
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Constant(value=int() | float() as value):
            yield from map(_constant, number_mutants(value))
        case ast.keyword(arg="per", value=ast.Name(id=word)):
            yield from (_per(other) for other in language.PER if other != word)
        case ast.Name(id=name, ctx=context):
            yield from (ast.Name(other, context) for other in names.others(name))
        case ast.Call(func=ast.Name(id=name), args=[first, *_], keywords=keywords):
            yield first
            yield from (_with(node, func=ast.Name(other)) for other in _others(name, len(node.args)))
            if name in language.REDUCTIONS and not keywords:
                yield from (_with(node, keywords=[_per(word)]) for word in language.PER[1:])
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield from (body, orelse, ast.IfExp(test, orelse, body))
        case ast.BoolOp(op=op, values=[*values]):
            for i in range(len(values)):
                match [*values[:i], *values[i + 1 :]]:
                    case [alone]:
                        yield alone
                    case others:
                        yield ast.BoolOp(op, others)


def _per(word: str) -> ast.keyword:
    return ast.keyword("per", ast.Name(word))


def _others(function: str, count: int) -> Iterator[str]:
    """Return what else can be called with as many arguments."""
    same: Iterable[str] = language.REDUCTIONS
    if function in language.FUNCTIONS:
        same = (name for name, f in language.FUNCTIONS.items() if count in f.spelling)
    return (name for name in same if name != function)


def _with(node: Tree, **fields: object) -> Tree:
    """Return a copy of `node` with other fields."""
    new = copy.copy(node)
    for field, value in fields.items():
        setattr(new, field, value)
    return new


def _constant(value: float) -> ast.expr:
    return ast.Constant(value) if value >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-value))

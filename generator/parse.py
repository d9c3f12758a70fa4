"""The formulas of a spec, read through Python's own `ast`, -> a typed Rule. What has no case is an error.

A statement with a mistake is reported and skipped, so that one run shows an author every mistake.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from stepspec.generator import language
from stepspec.generator.errors import Problems
from stepspec.generator.formulas import FormulaReader, MistakeError, compares_ndim
from stepspec.generator.ir import (
    Assign,
    Binary,
    Compare,
    Expr,
    If,
    Kind,
    Logic,
    Name,
    Not,
    Statement,
    walk,
)
from stepspec.generator.scope import Scope
from stepspec.generator.spec import Spec
from stepspec.generator.syntax import ARITHMETIC, spoken


@dataclass(frozen=True, slots=True)
class Rule:
    """An update rule, typed: its statements, when states are stored, what hyperparameters must satisfy."""

    spec: Spec
    statements: tuple[Statement, ...]
    presence: dict[str, Expr]
    requirements: dict[str, Expr]


def parse(spec: Spec) -> Rule:
    """Return the typed rule of `spec`; raise SpecError with every mistake in its formulas."""
    problems = Problems(spec.source)
    rule = read_rule(spec, problems)
    problems.raise_any()
    return rule


def read_rule(spec: Spec, problems: Problems) -> Rule:
    """Return what can be read of the rule of `spec`; mistakes are recorded in `problems`."""
    scope = Scope(spec, problems)
    presence = {
        s.name: condition
        for s in spec.states
        if s.when is not None
        and (condition := FormulaReader(s.when, scope).static_condition("when")) is not None
    }
    scope.static = {node for c in presence.values() for node in walk(c) if isinstance(node, Compare)}
    requirements = {
        f.text: condition
        for f in spec.requirements
        if (condition := FormulaReader(f, scope).static_condition("require")) is not None
    }
    statements = _RuleReader(spec.update, scope).statements()
    if statements is not None:
        scope.check_use(presence, requirements)
    return Rule(spec, statements or (), presence, requirements)


class _RuleReader(FormulaReader):
    """Reads the statements of `update`."""

    def statements(self) -> tuple[Statement, ...] | None:
        """Read all statements of the block; None if it is not Python."""
        tree = self.tree("exec")
        return self._block(tree.body) if isinstance(tree, ast.Module) else None

    def _block(self, body: Iterable[ast.stmt]) -> tuple[Statement, ...]:
        found = []
        for node in body:
            try:
                found.append(self._statement(node))
            except MistakeError:
                self.scope.excuse(n for n in ast.walk(node) if isinstance(n, ast.Name))
        return tuple(found)

    # statements

    def _statement(self, node: ast.stmt) -> Statement:
        match node:
            case ast.Assign(targets=[ast.Name() as target], value=value):
                return self._assign(node, target, self.number(value))
            case ast.AugAssign(target=ast.Name() as target, op=op, value=value) if type(op) in ARITHMETIC:
                old = self.name_use(ast.copy_location(ast.Name(target.id, ast.Load()), target))
                return self._assign(
                    node, target, Binary(ARITHMETIC[type(op)], old, self.number(value), span=self.span(node))
                )
            case ast.If(test=test, body=body, orelse=orelse):
                return self._if(test, body, orelse)
            case ast.Assign(targets=[_]):
                raise self.wrong(node, "only a plain name can be assigned", "assign the values one by one")
            case ast.Assign():
                raise self.wrong(node, "one name a line can be assigned")
            case ast.AugAssign():
                raise self.wrong(node, "only += -= *= /= of a name are supported")
            case ast.Expr():
                raise self.wrong(node, "this line assigns nothing", "write 'name = ...'")
            case _:
                raise self.wrong(
                    node, f"{spoken(node)} cannot stand in a rule", "a rule has assignments and static ifs"
                )

    def _assign(self, node: ast.stmt, target: ast.Name, value: Expr) -> Assign:
        name = target.id
        self._check_target(target)
        new = self.scope.local(name, value)
        if value.extent not in new.extent:
            what = f"'{name}' has one value per {new.extent.word}"
            hint = f"reduce it, as in mean(..., per={new.extent.word})"
            raise self.wrong(node, f"{what}, but this varies per {value.extent.word}", hint)
        self.scope.names[name] = new
        self.scope.assigned.setdefault(name, self.span(target))
        self.scope.partial.discard(name)
        text = " ".join(ast.get_source_segment(self.formula.text, node, padded=False).split())  # type: ignore[union-attr]  # its own text
        return Assign(new, value, text, self.span(node))

    def _check_target(self, target: ast.Name) -> None:
        name = target.id
        known = self.scope.names.get(name)
        if name == "grad":
            raise self.wrong(target, "grad cannot be assigned", "gradients are never written; use a new name")
        if known is not None and known.kind in (Kind.HYPERPARAMETER, Kind.HOST, Kind.STATIC):
            raise self.wrong(target, f"'{name}' cannot be assigned", "use a new name")
        lent = name in language.LENDABLE and name in self.scope.states
        if (name in language.CALLED and not lent) or name == "learning_rate":
            raise self.wrong(target, f"'{name}' has a meaning already", "use a new name")
        if name in language.RESERVED or name in language.COMMON_ARGUMENTS:
            raise self.wrong(target, f"'{name}' is used by the generated code", "use a new name")
        values = {f"new_{stored}" for stored in ("weight", *self.scope.states)}
        if name.startswith(("_", "terms_")) or name in values:
            raise self.wrong(target, f"'{name}' is used by the generated code", "use a new name")
        if not name.isascii():
            raise self.wrong(target, f"'{name}' is not ASCII")

    def _if(self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt]) -> If:
        condition = self.condition(test)
        self._require_static(condition)
        before = dict(self.scope.names)
        then = self._block(body)
        after_then, self.scope.names = self.scope.names, dict(before)
        otherwise = self._block(orelse)
        self._join(before, after_then, self.scope.names)
        return If(condition, then, otherwise)

    def _require_static(self, condition: Expr) -> None:
        match condition:
            case Name(kind=Kind.STATIC):
                return
            case Compare() if condition in self.scope.static or compares_ndim(condition):
                return
            case Logic(left=left, right=right):
                self._require_static(left)
                self._require_static(right)
            case Not(value=value):
                self._require_static(value)
            case _:
                self.problems.add(
                    condition.span,
                    "an if statement needs a condition that is known before the step",
                    "a switch, a flag, ndim or a state's 'when'; write 'a if c else b' to choose by value",
                )
                raise MistakeError

    def _join(self, before: dict[str, Name], one: dict[str, Name], two: dict[str, Name]) -> None:
        joined: dict[str, Name] = {}
        for name in {*one, *two}:
            if name in one and name in two:
                a, b = one[name], two[name]
                joined[name] = Name(name, a.kind, a.varies | b.varies, max(a.known, b.known))
            elif name not in before:
                self.scope.partial.add(name)
        self.scope.names = joined

"""The formulas of a spec, read through Python's own `ast`, -> a typed Rule. What has no case is an error.

A statement with a mistake is reported and skipped, so that one run shows an author every mistake.
"""

import ast
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace

from stepspec.generator import language
from stepspec.generator.errors import Problems, Span, nearest
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
    Statement,
    is_condition,
    names,
    walk,
)
from stepspec.generator.spec import Formula, Spec

ARITHMETIC = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


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
    scope = _Scope(spec, problems)
    presence = {
        s.name: condition
        for s in spec.states
        if s.when is not None and (condition := _Reader(s.when, scope).static_condition("when")) is not None
    }
    scope.static = {node for c in presence.values() for node in walk(c) if isinstance(node, Compare)}
    requirements = {
        f.text: condition
        for f in spec.requirements
        if (condition := _Reader(f, scope).static_condition("require")) is not None
    }
    statements = _Reader(spec.update, scope).statements()
    if statements is not None:
        scope.check_use(presence, requirements)
    problems.raise_any()
    return Rule(spec, statements or (), presence, requirements)


class _MistakeError(Exception):
    """Leaves a statement in which a mistake was found and recorded."""


class _Scope:
    """The names that a formula may use, and what became of them."""

    def __init__(self, spec: Spec, problems: Problems) -> None:
        self.spec = spec
        self.problems = problems
        self.static: set[Compare] = set()
        self.states = {s.name: s for s in spec.states}
        self.partial: set[str] = set()
        self.read: set[str] = set()
        self.assigned: dict[str, Span] = {}
        self.failed: set[str] = set()
        self.names: dict[str, Name] = {
            **{n: Name(n, Kind.ARRAY, Extent.ELEMENT, 1) for n in language.ARRAY_NAMES},
            **{n: Name(n, Kind.HOST, Extent.TENSOR, 0) for n in ("lr", "wd", "t")},
            **{n: Name(n, Kind.HYPERPARAMETER, Extent.MODEL, 0) for n in ("rescale_grad", "clip_gradient")},
            **{n: Name(n, Kind.STATIC, Extent.TENSOR, 0) for n in language.STATIC_NAMES},
            **{f.name: Name(f.name, Kind.STATIC, Extent.TENSOR, 0) for f in spec.flags},
            **{s.name: Name(s.name, Kind.STATE, s.per, 1) for s in spec.states},
            **{
                h.name: Name(h.name, Kind.STATIC if h.is_switch else Kind.HYPERPARAMETER, Extent.MODEL, 0)
                for h in spec.own_hyperparameters
            },
        }

    def local(self, name: str, value: Expr) -> Name:
        """Return the name that assigning `value` to `name` makes."""
        if name == "weight":
            return Name(name, Kind.ARRAY, Extent.ELEMENT, max(1, value.stage))
        if name in self.states:
            return Name(name, Kind.STATE, self.states[name].per, max(1, value.stage))
        return Name(name, Kind.LOCAL, value.extent, value.stage)

    def excuse(self, mentioned: Iterable[ast.Name]) -> None:
        """Let a mistake not cause others: what its statement mentions counts as read, or as assigned."""
        for name in mentioned:
            if isinstance(name.ctx, ast.Store):
                self.failed.add(name.id)
            self.read.add(name.id)

    def check_use(self, presence: dict[str, Expr], requirements: dict[str, Expr]) -> None:
        """Report what is declared or assigned but never used."""
        outside = {n.name for c in (*presence.values(), *requirements.values()) for n in names(c)}
        declared = [
            *((h.name, h.span, "hyperparameter") for h in self.spec.own_hyperparameters),
            *((f.name, f.span, "tensor flag") for f in self.spec.flags),
        ]
        for name, span, what in declared:
            if name not in self.read:
                where = "the rule, only in a condition" if name in outside else "the rule"
                self.problems.add(span, f"{what} '{name}' is never used in {where}")
        for state in self.spec.states:
            if state.name not in {*self.assigned, *self.failed}:
                self.problems.add(state.span, f"state '{state.name}' is never assigned")
            elif state.name not in self.read:
                self.problems.add(state.span, f"state '{state.name}' is never read")
        for name, span in self.assigned.items():
            if name != "weight" and name not in self.states and name not in self.read:
                self.problems.add(span, f"'{name}' is assigned but never used")
        if "weight" not in {*self.assigned, *self.failed}:
            span = self.spec.update.span(1, 0, 1)
            self.problems.add(span, "the rule never assigns weight", "end it with 'weight = ...'")


class _Reader:
    """Reads one formula, or the block of `update`."""

    def __init__(self, formula: Formula, scope: _Scope) -> None:
        self.formula = formula
        self.scope = scope
        self.problems = scope.problems
        self.lines = formula.text.split("\n")

    # places

    def span(self, node: ast.expr | ast.stmt) -> Span:
        line = self.lines[node.lineno - 1].encode()
        start = len(line[: node.col_offset].decode())
        end = (
            len(line[: node.end_col_offset].decode())
            if node.end_lineno == node.lineno
            else len(line.decode())
        )
        return self.formula.span(node.lineno, start, end - start)

    def wrong(self, node: ast.expr | ast.stmt, message: str, hint: str = "") -> _MistakeError:
        self.problems.add(self.span(node), message, hint)
        return _MistakeError()

    # Python's parser

    def _tree(self, mode: str) -> ast.Module | ast.Expression | None:
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(self.formula.text, mode=mode)
        except SyntaxError as error:
            line = min(max(error.lineno or 1, 1), len(self.lines))
            column = max((error.offset or 1) - 1, 0)
            self.problems.add(self.formula.span(line, column, 1), *_syntax_message(self.lines[line - 1]))
            return None
        except (RecursionError, MemoryError, ValueError):
            self.problems.add(self.formula.span(1, 0, 1), "this formula is nested too deeply")
            return None
        deep = _too_deep(tree)
        if deep is not None:
            self.problems.add(self.span(deep), "this formula is nested too deeply", "name its parts")
            return None
        return tree  # type: ignore[return-value]  # mode is 'exec' or 'eval'

    def static_condition(self, key: str) -> Expr | None:
        """Read a condition on hyperparameters and flags alone, or report why it is none."""
        tree = self._tree("eval")
        if not isinstance(tree, ast.Expression):
            return None
        read = set(self.scope.read)
        try:
            condition = self._condition(tree.body)
            for name in names(condition):
                # a requirement is on the optimizer: no tensor is there yet
                per_tensor = key == "require" and name.varies is Extent.TENSOR
                allowed = name.kind in (Kind.HYPERPARAMETER, Kind.STATIC) and not per_tensor
                if not allowed or name.name in ("rescale_grad", "clip_gradient"):
                    self.problems.add(
                        name.span,
                        f"{key} cannot depend on '{name.name}'",
                        "use hyperparameters" if key == "require" else "use hyperparameters and flags",
                    )
                    raise _MistakeError
        except _MistakeError:
            return None
        finally:
            self.scope.read = read
        return condition

    def statements(self) -> tuple[Statement, ...] | None:
        """Read all statements of the block; None if it is not Python."""
        tree = self._tree("exec")
        return self._block(tree.body) if isinstance(tree, ast.Module) else None

    def _block(self, body: Iterable[ast.stmt]) -> tuple[Statement, ...]:
        found = []
        for node in body:
            try:
                found.append(self._statement(node))
            except _MistakeError:
                self.scope.excuse(n for n in ast.walk(node) if isinstance(n, ast.Name))
        return tuple(found)

    # statements

    def _statement(self, node: ast.stmt) -> Statement:
        match node:
            case ast.Assign(targets=[ast.Name() as target], value=value):
                return self._assign(node, target, self._number(value))
            case ast.AugAssign(target=ast.Name() as target, op=op, value=value) if type(op) in ARITHMETIC:
                old = self._name(ast.copy_location(ast.Name(target.id, ast.Load()), target))
                return self._assign(
                    node, target, Binary(ARITHMETIC[type(op)], old, self._number(value), span=self.span(node))
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
                    node, f"{_spoken(node)} cannot stand in a rule", "a rule has assignments and static ifs"
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
        if name in language.FUNCTIONS or name in language.REDUCTIONS or name == "learning_rate":
            raise self.wrong(target, f"'{name}' has a meaning already", "use a new name")
        if name in language.RESERVED or name in language.COMMON_ARGUMENTS:
            raise self.wrong(target, f"'{name}' is used by the generated code", "use a new name")
        values = {f"new_{stored}" for stored in ("weight", *self.scope.states)}
        if name.startswith(("_", "terms_")) or name in values:
            raise self.wrong(target, f"'{name}' is used by the generated code", "use a new name")
        if not name.isascii():
            raise self.wrong(target, f"'{name}' is not ASCII")

    def _if(self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt]) -> If:
        condition = self._condition(test)
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
            case Compare() if condition in self.scope.static or _compares_ndim(condition):
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
                raise _MistakeError

    def _join(self, before: dict[str, Name], one: dict[str, Name], two: dict[str, Name]) -> None:
        joined: dict[str, Name] = {}
        for name in {*one, *two}:
            if name in one and name in two:
                a, b = one[name], two[name]
                joined[name] = Name(name, a.kind, a.varies | b.varies, max(a.known, b.known))
            elif name not in before:
                self.scope.partial.add(name)
        self.scope.names = joined

    # expressions

    def _number(self, node: ast.expr) -> Expr:
        value = self._expr(node)
        if is_condition(value):
            raise self.wrong(node, "a number is wanted here, not a condition", "write '1 if c else 0'")
        return value

    def _condition(self, node: ast.expr) -> Expr:
        value = self._expr(node)
        if not is_condition(value):
            raise self.wrong(node, "a condition is wanted here, not a number", "compare it, as in 'x > 0'")
        return value

    def _expr(self, node: ast.expr) -> Expr:
        span = self.span(node)
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.Name():
                return self._name(node)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return Negative(self._number(operand), span=span)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._number(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Not(self._condition(operand), span=span)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return self._power(node, self._number(left), self._number(right))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                return Binary(ARITHMETIC[type(op)], self._number(left), self._number(right), span=span)
            case ast.BinOp():
                raise self.wrong(node, "this operator cannot stand in a rule", "use + - * / and **")
            case ast.Compare(
                ops=[op], left=ast.Name(id="ndim") as left, comparators=[ast.Constant() as right]
            ) if type(op) in COMPARISONS:
                ndim = replace(self.scope.names["ndim"], span=self.span(left))
                return Compare(COMPARISONS[type(op)], ndim, self._constant(right), span=span)
            case ast.Compare(ops=[op], left=left, comparators=[right]) if type(op) in COMPARISONS:
                return Compare(COMPARISONS[type(op)], self._number(left), self._number(right), span=span)
            case ast.Compare(ops=ops):
                hint = "join two comparisons with 'and'" if len(ops) > 1 else "use < <= > >= == !="
                raise self.wrong(node, "chained or unusual comparisons are not supported", hint)
            case ast.BoolOp(op=op, values=values):
                joined = self._condition(values[0])
                for value in values[1:]:
                    joined = Logic(
                        "and" if isinstance(op, ast.And) else "or", joined, self._condition(value), span=span
                    )
                return joined
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return Select(self._condition(test), self._number(body), self._number(orelse), span=span)
            case ast.Call():
                return self._call(node)
            case _:
                raise self.wrong(node, f"{_spoken(node)} cannot stand in a rule")

    def _constant(self, node: ast.Constant) -> Constant:
        if type(node.value) not in (int, float):
            raise self.wrong(node, f"{node.value!r} is not a number"[:80])
        try:
            value = float(node.value)  # type: ignore[arg-type]  # int or float
        except OverflowError:
            value = math.inf
        if math.isinf(value):
            raise self.wrong(node, "this number is too large")
        return Constant(value, span=self.span(node))

    def _name(self, node: ast.Name) -> Name:
        name, scope = node.id, self.scope
        if name in language.STATIC_NAMES:
            raise self.wrong(node, f"{name} can only be compared with a number", f"write it as {name} > 1")
        if name in scope.names:
            scope.read.add(name)
            found = scope.names[name]
            return Name(name, found.kind, found.varies, found.known, span=self.span(node))
        if name in scope.failed:
            raise _MistakeError
        if name in scope.partial:
            raise self.wrong(
                node, f"'{name}' is assigned in one branch only", "assign it in both, or before the if"
            )
        if name == "learning_rate":
            raise self.wrong(
                node, "unknown name 'learning_rate'", "did you mean 'lr', which has schedule and multiplier?"
            )
        if name in language.FUNCTIONS or name in language.REDUCTIONS:
            raise self.wrong(node, f"'{name}' is a function", f"write {name}(...)")
        if any(
            isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store) for n in self._later()
        ):
            raise self.wrong(node, f"'{name}' is read before it is assigned")
        raise self.wrong(
            node,
            f"unknown name '{name}'",
            nearest(name, {*scope.names, *language.FUNCTIONS, *language.REDUCTIONS}),
        )

    def _later(self) -> Iterable[ast.AST]:
        return ast.walk(ast.parse(self.formula.text))

    def _power(self, node: ast.BinOp, base: Expr, exponent: Expr) -> Expr:
        if base.stage or exponent.stage:
            value = exponent.value if isinstance(exponent, Constant) else math.nan
            whole = value == int(value) if math.isfinite(value) else False
            if not (value == 0.5 or (whole and 2 <= value <= language.LARGEST_POWER)):
                raise self.wrong(
                    node.right, f"an array can be raised to 2 ... {language.LARGEST_POWER} or 0.5 only"
                )
        return Power(base, exponent, span=self.span(node))

    def _call(self, node: ast.Call) -> Expr:
        if not isinstance(node.func, ast.Name):
            raise self.wrong(node.func, "only the language's own functions can be called")
        name = node.func.id
        if name in language.REDUCTIONS:
            return self._reduction(node, name)
        if name == "normal":
            raise self.wrong(node, "normal() is not supported yet")
        if name not in language.FUNCTIONS:
            raise self.wrong(
                node.func,
                f"unknown function '{name}'",
                nearest(name, {*language.FUNCTIONS, *language.REDUCTIONS}),
            )
        function = language.FUNCTIONS[name]
        if node.keywords:
            raise self.wrong(node, f"{name} takes no keyword arguments")
        if len(node.args) not in function.spelling:
            wanted = " or ".join(map(str, function.spelling))
            plural = "" if wanted == "1" else "s"
            raise self.wrong(node, f"{name} takes {wanted} argument{plural}, not {len(node.args)}")
        arguments = tuple(self._number(argument) for argument in node.args)
        if not function.host and not any(argument.stage for argument in arguments):
            raise self.wrong(node, f"{name} of numbers that the host knows is not supported")
        return Call(name, arguments, span=self.span(node))

    def _reduction(self, node: ast.Call, name: str) -> Reduction:
        if len(node.args) != 1 or any(k.arg != "per" for k in node.keywords):
            raise self.wrong(
                node, f"{name} takes one value and per=", f"write {name}(x) or {name}(x, per=row)"
            )
        per = "tensor"
        for k in node.keywords:
            word = k.value.id if isinstance(k.value, ast.Name) else ""
            if word not in language.PER:
                raise self.wrong(k.value, "per must be tensor, row or column", nearest(word, language.PER))
            if word == "model":
                raise self.wrong(k.value, "per=model is not supported yet", "reduce per tensor")
            per = word
        value = self._number(node.args[0])
        if value.extent.is_scalar:
            raise self.wrong(node.args[0], f"{name} needs a value that varies within the tensor")
        if per != "tensor" and value.extent is not Extent.ELEMENT:
            raise self.wrong(
                node.args[0],
                f"{name} per {per} needs a value per element, this varies per {value.extent.word}",
            )
        return Reduction(name, Extent[per.upper()], value, span=self.span(node))


def _compares_ndim(condition: Compare) -> bool:
    match condition:
        case Compare(left=Name(name="ndim"), right=Constant()):
            return True
        case _:
            return False


def _too_deep(tree: ast.AST) -> ast.expr | ast.stmt | None:
    """Return a node that stands deeper than the language allows, or None; without recursion."""
    queue: list[tuple[ast.AST, int]] = [(tree, 0)]
    while queue:
        node, depth = queue.pop()
        if depth > language.MOST_NESTING and isinstance(node, ast.expr | ast.stmt):
            return node
        queue.extend((child, depth + 1) for child in ast.iter_child_nodes(node))
    return None


def _syntax_message(line: str) -> tuple[str, str]:
    if "^" in line:
        return "this line cannot be read", "a power is written **"
    if line.count("(") != line.count(")"):
        return "this line cannot be read", "its brackets do not match"
    return "this line cannot be read", "formulas are written as in Python"


def _spoken(node: ast.AST) -> str:
    words = {
        ast.Attribute: "an attribute",
        ast.Subscript: "a subscript",
        ast.Lambda: "a lambda",
        ast.For: "a loop",
        ast.While: "a loop",
        ast.FunctionDef: "a function definition",
        ast.Import: "an import",
        ast.ImportFrom: "an import",
        ast.Tuple: "a tuple",
        ast.List: "a list",
        ast.JoinedStr: "a string",
        ast.NamedExpr: "an assignment in a formula",
        ast.UnaryOp: "this operator",
    }
    return words.get(type(node), f"'{type(node).__name__.lower()}'")

"""One formula, read through Python's own `ast`, -> a typed expression. What has no case is an error."""

import ast
import math
import warnings
from collections.abc import Iterable
from dataclasses import replace

from stepspec.generator import language
from stepspec.generator.errors import Span, closest, nearest
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
    Noise,
    Not,
    Power,
    Reduction,
    Select,
    is_condition,
    names,
    walk,
)
from stepspec.generator.scope import Scope
from stepspec.generator.spec import Formula
from stepspec.generator.syntax import ARITHMETIC, COMPARISONS, is_draw, spoken, syntax_message, too_deep


class MistakeError(Exception):
    """Leaves a statement in which a mistake was found and recorded."""


class FormulaReader:
    """Reads formulas of one text of a spec: places, Python's parser, expressions."""

    def __init__(self, formula: Formula, scope: Scope) -> None:
        self.formula = formula
        self.scope = scope
        self.problems = scope.problems
        self.lines = formula.text.split("\n")
        # where each `normal()` stands: their order in the text tells them apart
        self.draws: list[tuple[int, int]] = []

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

    def wrong(self, node: ast.expr | ast.stmt, message: str, hint: str = "") -> MistakeError:
        self.problems.add(self.span(node), message, hint)
        return MistakeError()

    # Python's parser

    def tree(self, mode: str) -> ast.Module | ast.Expression | None:
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(self.formula.text, mode=mode)
        except SyntaxError as error:
            line = min(max(error.lineno or 1, 1), len(self.lines))
            column = max((error.offset or 1) - 1, 0)
            self.problems.add(self.formula.span(line, column, 1), *syntax_message(self.lines[line - 1]))
            return None
        except (RecursionError, MemoryError, ValueError):
            self.problems.add(self.formula.span(1, 0, 1), "this formula is nested too deeply")
            return None
        deep = too_deep(tree)
        if deep is not None:
            self.problems.add(self.span(deep), "this formula is nested too deeply", "name its parts")
            return None
        self.draws = sorted((n.lineno, n.col_offset) for n in ast.walk(tree) if is_draw(n))
        return tree  # type: ignore[return-value]  # mode is 'exec' or 'eval'

    def static_condition(self, key: str) -> Expr | None:
        """Read a condition on hyperparameters and flags alone, or report why it is none."""
        tree = self.tree("eval")
        if not isinstance(tree, ast.Expression):
            return None
        read = set(self.scope.read)
        try:
            condition = self.condition(tree.body)
            self._refuse_noise(condition, key)
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
                    raise MistakeError
        except MistakeError:
            return None
        finally:
            self.scope.read = read
        return condition

    def _refuse_noise(self, condition: Expr, key: str) -> None:
        for node in walk(condition):
            if isinstance(node, Noise):
                hint = "it is drawn anew in each step; write 'a if c else b' in the rule"
                self.problems.add(node.span, f"{key} cannot depend on noise", hint)
                raise MistakeError

    # expressions

    def number(self, node: ast.expr) -> Expr:
        value = self._expr(node)
        if is_condition(value):
            raise self.wrong(node, "a number is wanted here, not a condition", "write '1 if c else 0'")
        return value

    def _numbers(self, *nodes: ast.expr) -> tuple[Expr, ...]:
        """Read formulas side by side: a mistake in one does not hide those of the others."""
        found = []
        for node in nodes:
            try:
                found.append(self.number(node))
            except MistakeError:
                continue
        if len(found) < len(nodes):
            raise MistakeError
        return tuple(found)

    def condition(self, node: ast.expr) -> Expr:
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
                return self.name_use(node)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return Negative(self.number(operand), span=span)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.number(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Not(self.condition(operand), span=span)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return self._power(node, *self._numbers(left, right))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                return Binary(ARITHMETIC[type(op)], *self._numbers(left, right), span=span)
            case ast.BinOp():
                raise self.wrong(node, "this operator cannot stand in a rule", "use + - * / and **")
            case ast.Compare(
                ops=[op], left=ast.Name(id="ndim") as left, comparators=[ast.Constant() as right]
            ) if type(op) in COMPARISONS:
                ndim = replace(self.scope.names["ndim"], span=self.span(left))
                return Compare(COMPARISONS[type(op)], ndim, self._constant(right), span=span)
            case ast.Compare(ops=[op], left=left, comparators=[right]) if type(op) in COMPARISONS:
                return Compare(COMPARISONS[type(op)], *self._numbers(left, right), span=span)
            case ast.Compare(ops=ops):
                hint = "join two comparisons with 'and'" if len(ops) > 1 else "use < <= > >= == !="
                raise self.wrong(node, "chained or unusual comparisons are not supported", hint)
            case ast.BoolOp(op=op, values=values):
                joined = self.condition(values[0])
                for value in values[1:]:
                    joined = Logic(
                        "and" if isinstance(op, ast.And) else "or", joined, self.condition(value), span=span
                    )
                return joined
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return Select(self.condition(test), self.number(body), self.number(orelse), span=span)
            case ast.Call():
                return self._call(node)
            case _:
                raise self.wrong(node, f"{spoken(node)} cannot stand in a rule")

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

    def name_use(self, node: ast.Name) -> Name:
        name, scope = node.id, self.scope
        if name in language.STATIC_NAMES:
            raise self.wrong(node, f"{name} can only be compared with a number", f"write it as {name} > 1")
        if name in scope.names:
            scope.read.add(name)
            found = scope.names[name]
            return Name(name, found.kind, found.varies, found.known, span=self.span(node))
        if name in scope.failed:
            raise MistakeError
        if name in scope.partial:
            raise self.wrong(
                node, f"'{name}' is assigned in one branch only", "assign it in both, or before the if"
            )
        if name == "learning_rate":
            raise self.wrong(
                node, "unknown name 'learning_rate'", "did you mean 'lr', which has schedule and multiplier?"
            )
        if name in language.CALLED:
            inside = "" if name == language.NOISE else "..."
            raise self.wrong(node, f"'{name}' is a function", f"write {name}({inside})")
        if any(
            isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store) for n in self._later()
        ):
            raise self.wrong(node, f"'{name}' is read before it is assigned")
        known = {*scope.names, *language.CALLED}
        scope.read.add(closest(name, known))  # whoever mistypes a name has used it
        raise self.wrong(node, f"unknown name '{name}'", nearest(name, known))

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
        if name in self.scope.states:
            hint = "give the state another name" if name in language.LENDABLE else ""
            raise self.wrong(node.func, f"'{name}' is a state of this rule", hint)
        if name in language.REDUCTIONS:
            return self._reduction(node, name)
        if name == language.NOISE:
            return self._noise(node)
        if name not in language.FUNCTIONS:
            hint = language.OTHER_FUNCTIONS.get(name) or nearest(name, language.CALLED)
            raise self.wrong(node.func, f"unknown function '{name}'", hint)
        function = language.FUNCTIONS[name]
        if node.keywords:
            raise self.wrong(node, f"{name} takes no keyword arguments")
        if len(node.args) not in function.spelling:
            wanted = " or ".join(map(str, function.spelling))
            plural = "" if wanted == "1" else "s"
            raise self.wrong(node, f"{name} takes {wanted} argument{plural}, not {len(node.args)}")
        arguments = self._numbers(*node.args)
        if not function.host and not any(argument.stage for argument in arguments):
            raise self.wrong(node, f"{name} of numbers that the host knows is not supported")
        return Call(name, arguments, span=self.span(node))

    def _noise(self, node: ast.Call) -> Noise:
        if node.args or node.keywords:
            raise self.wrong(node, "normal() takes no arguments", "scale it, as in sqrt(lr) * normal()")
        stream = 1 + self.draws.index((node.lineno, node.col_offset))
        if stream > language.MOST_DRAWS:
            most = f"a rule can draw {language.MOST_DRAWS} times"
            raise self.wrong(node, most, "give a draw a name to use it more than once")
        return Noise(stream, span=self.span(node))

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
        value = self.number(node.args[0])
        if value.extent.is_scalar:
            raise self.wrong(node.args[0], f"{name} needs a value that varies within the tensor")
        if per != "tensor" and value.extent is not Extent.ELEMENT:
            raise self.wrong(
                node.args[0],
                f"{name} per {per} needs a value per element, this varies per {value.extent.word}",
            )
        return Reduction(name, Extent[per.upper()], value, span=self.span(node))


def compares_ndim(condition: Compare) -> bool:
    match condition:
        case Compare(left=Name(name="ndim"), right=Constant()):
            return True
        case _:
            return False

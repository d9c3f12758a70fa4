"""Python's syntax as formulas use it: operators, draws, what stands too deep, words for what cannot stand."""

import ast
from typing import TypeGuard

from stepspec.generator import language

ARITHMETIC = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


def is_draw(node: ast.AST) -> TypeGuard[ast.Call]:
    """Tell whether a node calls `normal`."""
    match node:
        case ast.Call(func=ast.Name(id=language.NOISE)):
            return True
        case _:
            return False


def too_deep(tree: ast.AST) -> ast.expr | ast.stmt | None:
    """Return a node that stands deeper than the language allows, or None; without recursion."""
    queue: list[tuple[ast.AST, int]] = [(tree, 0)]
    while queue:
        node, depth = queue.pop()
        if depth > language.MOST_NESTING and isinstance(node, ast.expr | ast.stmt):
            return node
        queue.extend((child, depth + 1) for child in ast.iter_child_nodes(node))
    return None


def syntax_message(line: str) -> tuple[str, str]:
    """Return what to say of a line that Python cannot read: message and hint."""
    if "^" in line:
        return "this line cannot be read", "a power is written **"
    if line.count("(") != line.count(")"):
        return "this line cannot be read", "its brackets do not match"
    return "this line cannot be read", "formulas are written as in Python"


def spoken(node: ast.AST) -> str:
    """Return what an author calls a node that cannot stand where it does."""
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

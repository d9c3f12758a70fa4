"""The values of a document -> texts, numbers, ranges, formulas. What is none is recorded as a mistake."""

import math
import re
from collections.abc import Iterable

from stepspec.generator import language
from stepspec.generator.document import Entry, Items, Node, Scalar, Table
from stepspec.generator.errors import Problems, Span, nearest
from stepspec.generator.spec import ANY_NUMBER, Formula, Range

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$", re.ASCII)
INFINITY = re.compile(r"[+-]?\.(inf|Inf|INF)$")
RANGE = re.compile(r"([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])$")

NUMBER_HINTS = {
    **dict.fromkeys(("yes", "no", "on", "off"), "a switch is written true or false"),
    **dict.fromkeys(("inf", "+inf", "infinity", "none", "null"), "infinity is written .inf"),
    "-inf": "infinity is written -.inf",
}


class Fields:
    """A mapping being consumed: what nobody took is reported as unknown."""

    def __init__(self, table: Table, known: Iterable[str], where: str, problems: Problems) -> None:
        self._entries = {entry.key: entry for entry in table.entries}
        self._problems = problems
        self.span = table.span
        known = tuple(known)
        for entry in table.entries:
            if entry.key not in known:
                self._unknown(entry, known, where, table.flow)

    def _unknown(self, entry: Entry, known: tuple[str, ...], where: str, flow: bool) -> None:
        hint = nearest(entry.key, known) or f"known keys: {', '.join(known)}"
        if flow and entry.value == Scalar("", "plain", entry.value.span):
            hint = "quote a text that holds a comma"
        self._problems.add(entry.span, f"unknown key '{entry.key}' in {where}", hint)

    def take(self, key: str) -> Node | None:
        """Return the value of `key`, None if it is not there."""
        entry = self._entries.get(key)
        return entry.value if entry else None


class ValueReader:
    """Reads the values of one document and records what is wrong with them in `problems`."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def entries(self, node: Node | None) -> tuple[Entry, ...]:
        """Return the entries of a mapping from names, none if there is no node."""
        if node is None:
            return ()
        if not isinstance(node, Table):
            self.problems.add(
                node.span, "a mapping from names is wanted here", "write 'momentum: {default: 0.9}'"
            )
            return ()
        return node.entries

    def fields(self, entry: Entry, known: tuple[str, ...], where: str) -> Fields:
        """Return the mapping that describes one name; `where` says what it is."""
        if isinstance(entry.value, Table):
            return Fields(entry.value, known, where, self.problems)
        self.problems.add(
            entry.value.span, f"{where} '{entry.key}' must be a mapping", "write it as {default: 0.9}"
        )
        return Fields(Table((), entry.span, True), known, where, self.problems)

    def formula(self, node: Node, what: str) -> Formula | None:
        """Return a condition that stands on one line."""
        if isinstance(node, Scalar) and node.style in ("plain", "quoted") and node.text.strip():
            if _unprintable(node.text):
                self.problems.add(node.span, f"{what} holds a character that cannot stand in a docstring")
                return None
            quote = node.style == "quoted"
            return Formula(node.text, node.span.line, node.span.column - 1 + quote)
        self.problems.add(node.span, f"{what} must be a condition such as momentum > 0")
        return None

    def rule(self, node: Node | None) -> Formula:
        """Return the block of formulas, empty if there is none."""
        if node is None:
            return Formula("", 1, 0)
        if not isinstance(node, Scalar) or node.style != "block":
            self.problems.add(
                node.span,
                "update must be a block of formulas",
                "write 'update: |' and indent the formulas below",
            )
        elif not node.text.strip():
            self.problems.add(node.span, "update is empty")
        elif len(node.text) > language.LONGEST_UPDATE:
            self.problems.add(node.span, f"update is longer than {language.LONGEST_UPDATE} characters")
        elif found := _unprintable(node.text.replace("\n", " ")):
            before = node.text[: found.start()]
            span = Span(
                node.span.line + 1 + before.count("\n"), node.indent + len(before.split("\n")[-1]) + 1
            )
            if found[0] == "\t":
                self.problems.add(span, "a tab in a formula", "indent with spaces")
            else:
                hint = "break a long line inside brackets" if found[0] == "\\" else ""
                self.problems.add(span, "a character that cannot stand in a docstring", hint)
        else:
            return Formula(node.text, node.span.line + 1, node.indent)
        return Formula("", node.span.line, 0)

    def doc(self, own: Fields) -> str:
        """Return the text under `doc`, empty if there is none."""
        node = own.take("doc")
        return self.text(node, "doc") if node is not None else ""

    def text(self, node: Node | None, what: str) -> str:
        """Return a text of one line, empty if there is no node."""
        if node is None:
            return ""
        if not isinstance(node, Scalar) or node.style in ("block", "folded"):
            self.problems.add(node.span, f"{what} must be a line of text")
            return ""
        if not node.text.strip():
            self.problems.add(node.span, f"{what} is empty")
        elif _unprintable(node.text):
            self.problems.add(node.span, f"{what} holds a character that cannot stand in a docstring")
        return node.text.strip()

    def number(self, node: Node, what: str, infinite: bool) -> float:
        """Return a number; an infinite one only if `infinite` allows it."""
        if isinstance(node, Scalar) and node.style == "plain":
            if NUMBER.match(node.text) and math.isfinite(float(node.text)):
                return float(node.text)
            if infinite and INFINITY.match(node.text):
                return float(node.text.replace(".", ""))
        word = node.text.lower() if isinstance(node, Scalar) else ""
        self.problems.add(
            node.span, f"{what} must be a number", NUMBER_HINTS.get(word, "") if infinite else ""
        )
        return 0.0

    def interval(self, node: Node) -> Range:
        """Return the interval that a text such as `[0, 1)` spells."""
        match = RANGE.match(node.text) if isinstance(node, Scalar) else None
        if match:
            ends = [float(end) for end in match.group(2, 3) if NUMBER.match(end) or end in ("inf", "-inf")]
            if len(ends) == 2 and ends[0] < ends[1]:
                return Range(ends[0], ends[1], match[1] == "[", match[4] == "]")
        hint = 'quote it: "[0, 1)"' if isinstance(node, Items) else 'write it as "[0, 1)" or "(0, inf)"'
        self.problems.add(node.span, "range must be an interval of two numbers", hint)
        return ANY_NUMBER


def _unprintable(text: str) -> re.Match[str] | None:
    """Return the first place in `text` that cannot stand in the docstring of the generated class, or None."""
    found = re.finditer(r'"""|.', text, re.DOTALL)
    return next((m for m in found if m[0] in ('"""', "\\") or not m[0].isprintable()), None)


def truth(node: Node) -> bool | None:
    """Return the bool that `node` spells, or None; only true and false do, unlike in YAML 1.1."""
    plain = isinstance(node, Scalar) and node.style == "plain"
    return {"true": True, "false": False}.get(node.text) if plain and isinstance(node, Scalar) else None

"""A spec file -> a Spec: every key checked, every value with its place, every formula still text.

Reading consumes the document's mappings: what is left over is a typo and is reported with the nearest key.
"""

import keyword
import math
import re
from collections.abc import Iterable
from pathlib import Path

from stepspec.generator import language
from stepspec.generator.document import Entry, Items, Node, Scalar, Table, read
from stepspec.generator.errors import Problem, Problems, Source, Span, SpecError, nearest
from stepspec.generator.ir import Extent
from stepspec.generator.spec import (
    ANY_NUMBER,
    NOT_NEGATIVE,
    Formula,
    Hyperparameter,
    Range,
    Spec,
    State,
    TensorFlag,
    number_text,
)

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$")


INFINITY = re.compile(r"[+-]?\.(inf|Inf|INF)$")


RANGE = re.compile(r"([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])$")


IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*$")


LARGEST_FILE = 200_000


NUMBER_HINTS = {
    **dict.fromkeys(("yes", "no", "on", "off"), "a switch is written true or false"),
    **dict.fromkeys(("inf", "+inf", "infinity", "none", "null"), "infinity is written .inf"),
    "-inf": "infinity is written -.inf",
}


def load(path: Path, shown: str | None = None) -> Spec:
    """Read the spec at `path`; raise SpecError with every mistake found in its data.

    Args:
        path: a `.yaml` file of UTF-8 text.
        shown: the name that messages give the file; by default the path as it is.
    """
    return read_spec(read_source(path, shown), path.stem)


def read_source(path: Path, shown: str | None = None) -> Source:
    """Return the text of the file at `path`; raise SpecError if it is no text."""
    name = shown or str(path)
    data = path.read_bytes()
    if len(data) > LARGEST_FILE:
        raise SpecError(Source(name, ""), [Problem(Span(1, 1), f"a spec has at most {LARGEST_FILE} bytes")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        problem = Problem(Span(line, column), "not UTF-8 text", "save the file in UTF-8")
        raise SpecError(Source(name, ""), [problem]) from None
    return Source(name, text.replace("\r\n", "\n"))


def read_spec(source: Source, stem: str) -> Spec:
    """Return the Spec written in `source`; `stem` is the file's name without its ending."""
    problems = Problems(source)
    spec = read_draft(source, stem, problems)
    problems.raise_any()
    return spec


def read_draft(source: Source, stem: str, problems: Problems) -> Spec:
    """Return what can be read of a spec that may have mistakes; they are recorded in `problems`."""
    return _Reader(problems).spec(read(source, problems), stem)


class _Fields:
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
        entry = self._entries.get(key)
        return entry.value if entry else None


class _Reader:
    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def spec(self, table: Table, stem: str) -> Spec:
        top = _Fields(table, language.KEYS, "a spec", self.problems)
        for key in language.REQUIRED_KEYS:
            if top.take(key) is None:
                self.problems.add(table.span, f"key '{key}' is missing")
        spec = Spec(
            source=self.problems.source,
            stem=stem,
            name=self._name(top.take("name"), stem),
            summary=self._text(top.take("summary"), "summary"),
            paper=self._paper(top.take("paper")),
            hyperparameters=tuple(
                self._hyperparameter(e) for e in self._entries(top.take("hyperparameters"))
            ),
            states=tuple(self._state(e) for e in self._entries(top.take("state"))),
            flags=tuple(self._flag(e) for e in self._entries(top.take("tensors"))),
            requirements=self._requirements(top.take("require")),
            update=self._update(top.take("update")),
            span=table.span,
        )
        self._check_names(spec, table)
        return spec

    def _name(self, node: Node | None, stem: str) -> str:
        name = self._text(node, "name")
        if node is not None and name:
            if not re.match(r"[A-Z][A-Za-z0-9]*$", name) or keyword.iskeyword(name):
                self.problems.add(
                    node.span, f"'{name}' cannot name a class", "write it as NAG or GroupAdaGrad"
                )
            elif name.lower() != stem.replace("_", "").lower():
                hint = f"rename the file to {_file_name(name)}"
                self.problems.add(
                    node.span, f"the optimizer '{name}' stands in a file called '{stem}.yaml'", hint
                )
            elif keyword.iskeyword(stem):
                self.problems.add(node.span, f"'{stem}' cannot name a module", "choose another name")
        return name

    def _paper(self, node: Node | None) -> str:
        text = self._text(node, "paper") if node is not None else ""
        if node is not None and text and not re.match(r"https?://\S+$", text):
            self.problems.add(node.span, "paper must be a link, starting with https://")
        return text

    def _check_names(self, spec: Spec, table: Table) -> None:
        if spec.hyperparameters and all(h.name != "learning_rate" for h in spec.hyperparameters):
            span = next(e.value.span for e in table.entries if e.key == "hyperparameters")
            self.problems.add(
                span, "hyperparameter 'learning_rate' is missing", "add learning_rate: {default: 0.1}"
            )
        seen: dict[str, str] = {}
        named: list[tuple[Hyperparameter | State | TensorFlag, str]] = [
            *((h, "hyperparameter") for h in spec.hyperparameters if h.name != "learning_rate"),
            *((s, "state") for s in spec.states),
            *((f, "tensor flag") for f in spec.flags),
        ]
        for item, what in named:
            self._check_name(item.name, item.span, what)
            if item.name in {f"new_{name}" for name in ("weight", *(s.name for s in spec.states))}:
                self.problems.add(
                    item.span, f"'{item.name}' cannot name a {what}: the generated code uses it"
                )
            if item.name in seen:
                self.problems.add(item.span, f"'{item.name}' is a {seen[item.name]} already")
            seen[item.name] = what

    def _check_name(self, name: str, span: Span, what: str) -> None:
        taken = {
            **dict.fromkeys(language.RESERVED, "the generated code"),
            **dict.fromkeys(language.COMMON_ARGUMENTS, "every optimizer"),
            **dict.fromkeys(
                [*language.HOST_NAMES, *language.ARRAY_NAMES, *language.STATIC_NAMES], "every rule"
            ),
            **dict.fromkeys([*language.FUNCTIONS, *language.REDUCTIONS, "normal"], "the language"),
        }
        if not IDENTIFIER.match(name) or keyword.iskeyword(name) or keyword.issoftkeyword(name):
            self.problems.add(span, f"'{name}' cannot name a {what}", "use letters, digits and underscores")
        elif name.startswith("terms_"):
            self.problems.add(span, f"'{name}' cannot name a {what}: the generated code uses it")
        elif name in taken:
            self.problems.add(span, f"'{name}' cannot name a {what}: {taken[name]} uses it")

    def _entries(self, node: Node | None) -> tuple[Entry, ...]:
        if node is None:
            return ()
        if not isinstance(node, Table):
            self.problems.add(
                node.span, "a mapping from names is wanted here", "write 'momentum: {default: 0.9}'"
            )
            return ()
        return node.entries

    def _fields(self, entry: Entry, known: tuple[str, ...], where: str) -> _Fields:
        if isinstance(entry.value, Table):
            return _Fields(entry.value, known, where, self.problems)
        self.problems.add(
            entry.value.span, f"{where} '{entry.key}' must be a mapping", "write it as {default: 0.9}"
        )
        return _Fields(Table((), entry.span, True), known, where, self.problems)

    def _hyperparameter(self, entry: Entry) -> Hyperparameter:
        own = self._fields(entry, language.HYPERPARAMETER_KEYS, "hyperparameter")
        default_node, range_node = own.take("default"), own.take("range")
        default: float | bool = 0.0
        if default_node is not None:
            truth = _truth(default_node)
            default = self._number(default_node, "default", infinite=True) if truth is None else truth
        elif isinstance(entry.value, Table):
            self.problems.add(entry.span, f"hyperparameter '{entry.key}' has no default")
        interval = NOT_NEGATIVE if entry.key == "learning_rate" else ANY_NUMBER
        if range_node is not None:
            interval = self._range(range_node)
            if isinstance(default, bool):
                self.problems.add(range_node.span, "a switch has no range")
            elif entry.key == "learning_rate":
                self.problems.add(range_node.span, "the range of learning_rate is fixed: [0, inf)")
        if math.isinf(default):
            interval = _closed_at(interval, float(default))
        if default_node is not None and not isinstance(default, bool) and default not in interval:
            self.problems.add(
                default_node.span, f"default {number_text(default)} is outside the range {interval}"
            )
        return Hyperparameter(entry.key, default, interval, self._doc(own), entry.span)

    def _state(self, entry: Entry) -> State:
        own = self._fields(entry, language.STATE_KEYS, "state")
        per = Extent.ELEMENT
        node = own.take("per")
        if node is not None:
            word = self._text(node, "per")
            if word in language.STATE_PER:
                per = Extent[word.upper()]
            else:
                known = ", ".join(language.STATE_PER)
                self.problems.add(
                    node.span, f"'{word}' is no extent of a state", nearest(word, language.STATE_PER) or known
                )
        init: float | str = 0.0
        node = own.take("init")
        if isinstance(node, Scalar) and node.text == "weight":
            init = "weight"
            if per is not Extent.ELEMENT:
                self.problems.add(node.span, "only a state per element can start as the weight")
        elif node is not None:
            init = self._number(node, "init", infinite=False)
        node = own.take("when")
        when = self._formula(node, "when") if node is not None else None
        return State(entry.key, per, init, when, self._doc(own), entry.span)

    def _flag(self, entry: Entry) -> TensorFlag:
        own = self._fields(entry, language.FLAG_KEYS, "tensor flag")
        node = own.take("default")
        default = _truth(node) if node is not None else None
        if default is None:
            default = True
            if isinstance(entry.value, Table):
                span = node.span if node is not None else entry.span
                self.problems.add(span, f"tensor flag '{entry.key}' needs a default, true or false")
        endings: list[str] = []
        node = own.take("unless_name_ends")
        if isinstance(node, Items):
            endings = [self._text(value, "a name's ending") for value in node.values]
        elif node is not None:
            self.problems.add(node.span, "unless_name_ends must be a list of words", "write [gamma, beta]")
        return TensorFlag(entry.key, default, tuple(endings), self._doc(own), entry.span)

    def _requirements(self, node: Node | None) -> tuple[Formula, ...]:
        if node is None:
            return ()
        if not isinstance(node, Items):
            self.problems.add(node.span, "require must be a list of conditions", "write [low <= high]")
            return ()
        return tuple(f for value in node.values if (f := self._formula(value, "a requirement")) is not None)

    def _formula(self, node: Node, what: str) -> Formula | None:
        if isinstance(node, Scalar) and node.style in ("plain", "quoted") and node.text.strip():
            if _unprintable(node.text):
                self.problems.add(node.span, f"{what} holds a character that cannot stand in a docstring")
                return None
            quote = node.style == "quoted"
            return Formula(node.text, node.span.line, node.span.column - 1 + quote)
        self.problems.add(node.span, f"{what} must be a condition such as momentum > 0")
        return None

    def _update(self, node: Node | None) -> Formula:
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

    def _doc(self, own: _Fields) -> str:
        node = own.take("doc")
        return self._text(node, "doc") if node is not None else ""

    def _text(self, node: Node | None, what: str) -> str:
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

    def _number(self, node: Node, what: str, infinite: bool) -> float:
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

    def _range(self, node: Node) -> Range:
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


def _truth(node: Node) -> bool | None:
    """Return the bool that `node` spells, or None; only true and false do, unlike in YAML 1.1."""
    plain = isinstance(node, Scalar) and node.style == "plain"
    return {"true": True, "false": False}.get(node.text) if plain and isinstance(node, Scalar) else None


def _closed_at(interval: Range, end: float) -> Range:
    """Return `interval` with its infinite end closed, so that an infinite default lies inside."""
    if end > 0 and interval.high == end:
        return Range(interval.low, end, interval.low_closed, True)
    if end < 0 and interval.low == end:
        return Range(end, interval.high, True, interval.high_closed)
    return interval


def _file_name(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() + ".yaml"
